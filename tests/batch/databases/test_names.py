"""Names that people write, names as SQL, and URIs that are shown without their passwords."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.batch.databases.names import TableName, literal, quoted, split_names, table_name
from tidemill.batch.places import parse_place
from tidemill.errors import ConfigError

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(TEXT, TEXT)
def test_a_quoted_name_is_taken_as_it_is(schema: str, name: str) -> None:
    assert table_name(f"{quoted(schema)}.{quoted(name)}") == TableName(schema, name)


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_names_between_separators(names: list[str]) -> None:
    assert split_names(",".join(map(quoted, names)), ",", "columns") == names


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", '"a', '"a"b', "a.b.c", '""', "a\0"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="table"):
        table_name(text)


@given(TEXT)
def test_sql_reads_names_and_texts_as_they_are(text: str) -> None:
    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT {literal(text)} AS {quoted(text)}")
        assert found.columns == [text]
        assert found.fetchall() == [(text,)]


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:SECRET@h:5432/db?table=t",
        "postgresql://u:a/SECRET@h/db?table=t",
        "postgresql://u:a@SECRET@h/db?table=t",
        "postgresql://u:a:SECRET@h/db?table=t",
        "postgresql://u@h/db?table=t&password=SECRET&sslpassword=SECRET",
        "adbc+snowflake:u:SECRET@account/db?query=SELECT 1",
        "adbc+postgresql:postgresql://u:SECRET@h/db?query=SELECT 1",
        "adbc+flightsql:grpc://h?token=SECRET&table=t",
        "adbc+snowflake:u@account/db?privateKey=SECRET&table=t",
        "adbc+mssql:mssql://h/db?PWD=SECRET&table=t",
    ],
)
def test_a_place_is_shown_without_its_password(uri: str) -> None:
    place = parse_place(uri)
    assert "SECRET" not in place.shown
    assert "SECRET" not in repr(place)
    assert "SECRET" in place.text
    assert any("SECRET" in s for s in place.secrets)
    # A place that is shown is still one: what is told of a run names it.
    assert parse_place(place.shown).body == place.shown.partition(":")[2].removeprefix("//").partition("?")[0]


def test_what_is_hidden_is_known_whole() -> None:
    place = parse_place("adbc+postgresql:postgresql://u:a:b%2F@h/db?table=t&sslpassword=c&key=&application_name=d")
    assert place.secrets == ["c", "a:b%2F", "a:b/"]
    assert parse_place("postgresql://u@h:5432/db?query=SELECT 'x:y@z' || 1").secrets == []


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://h/db?password=SECRET&password=SECRET",
        "postgresql://u:SECRET@h/db?table=t&table=u",
        "mysql://u:SECRET@h/db",
        "mysql://h/db?password=SECRET",
        "mysql://u:SECRET?b@h/db",
    ],
)
def test_what_is_wrong_with_a_place_is_told_without_its_password(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_place(uri)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("uri", ["postgresql://u:a?SECRET@h/db?table=t", "postgresql://u:SECRET?a=b@h/db?table=t"])
def test_a_password_that_hides_the_query_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="%XX") as caught:
        parse_place(uri)
    assert "SECRET" not in str(caught.value)
