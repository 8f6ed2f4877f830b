"""What people write for an input or an output: taken for what it is, or refused in one message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.batch.support import table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.places import hidden, parse_place
from tidemill.errors import ConfigError, SourceError


@pytest.mark.parametrize("text", ["S3://bucket/x", "SQLite:x.db?table=t", "ADBC+sqlite:x?table=t", "Delta:t"])
def test_a_scheme_is_one_in_capitals_too(text: str) -> None:
    scheme, _, rest = text.partition(":")
    assert parse_place(text).shown == f"{scheme.lower()}:{rest}"


def test_a_password_behind_a_scheme_in_capitals_is_hidden() -> None:
    place = parse_place("PostgreSQL://u:SECRET@h/db?table=t")
    assert (place.scheme, place.shown) == ("postgresql", "postgresql://u@h/db?table=t")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("host=h user=u password=SECRET dbname=d", "host=h user=u password= dbname=d"),
        ("host=h password = 'SECRET it' dbname=d", "host=h password =  dbname=d"),
        ("Driver={x};UID=u;PWD=SECRET;Server=s", "Driver={x};UID=u;PWD=;Server=s"),
        ("x;Access_Token=SECRET", "x;Access_Token="),
    ],
)
def test_a_password_among_pairs_of_a_driver_is_hidden(body: str, shown: str) -> None:
    place = parse_place(f"adbc+some:{body}?table=t")
    assert place.shown == f"adbc+some:{shown}?table=t"
    assert any(s.startswith("SECRET") for s in place.secrets)
    assert "SECRET" not in repr(place)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an empty text is given as a place"),
        ("file://host/x.parquet", "files of another host are not read or written"),
        ("file:///a%00b", "holds a NUL character"),
        ("sqlite:x%00.db?table=t", "holds a NUL character"),
        ("sqlite:x.db?table=a%00", "holds a NUL character"),
    ],
)
def test_what_is_no_place_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_place(text)


def test_a_file_may_be_named_by_its_uri(tmp_path: Path) -> None:
    for uri in (f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a%20b"):
        assert parse_place(uri).body == f"{tmp_path}/a b"


@pytest.mark.parametrize("name", ["out.CSV", "out.Parquet", "out.JSONL"])
def test_a_suffix_in_capitals_makes_no_directory(package: Path, tmp_path: Path, name: str) -> None:
    write(table(3), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match=r"expected the suffix \.parquet, \.arrow, \.csv or \.jsonl"):
        score(package, tmp_path / "in.parquet", tmp_path / name, ScoreOptions())
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("source", ["in", "in/b.parquet"])
def test_a_pipe_among_the_files_is_not_waited_for(package: Path, tmp_path: Path, source: str) -> None:
    write(table(3), tmp_path / "in" / "a.parquet")
    os.mkfifo(tmp_path / "in" / "b.parquet")
    with pytest.raises(SourceError, match=r"b\.parquet: (is no regular file|no such file or directory)"):
        score(package, tmp_path / source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "left_out"), [("a//b.parquet", False), ("/b", False), ("a/_b/c", True), ("a/.b", True)]
)
def test_which_names_readers_leave_out(name: str, left_out: bool) -> None:
    assert hidden(name) == left_out  # keys of a store may have empty parts
