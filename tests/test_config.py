"""Configuration: strict, all errors at once, each with its path in TOML's words."""

from __future__ import annotations

import string
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tidemill.config import Config, decode, load_toml
from tidemill.errors import ConfigError
from tidemill.model.manifest import Manifest


class Source(Config, frozen=True, kw_only=True):
    uri: str
    chunk_rows: Annotated[int, msgspec.Meta(ge=1)] = 1000
    columns: tuple[str, ...] = ()


class Step(Config, frozen=True, kw_only=True):
    kind: Literal["scale", "drop"]
    by: float | None = None


class Job(Config, frozen=True, kw_only=True):
    name: str
    source: str | Source
    steps: tuple[Step, ...] = ()
    extra: list[Step] | None = None
    limits: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    stages: dict[str, Source] = msgspec.field(default_factory=dict)
    sink: Source | None = None
    kept: str = msgspec.field(name="from", default="")


GOOD: dict[str, Any] = {"name": "nightly", "source": {"uri": "s3://lake/"}}


def problems(raw: Any, type_: type = Job) -> list[str]:
    with pytest.raises(ConfigError) as error:
        decode(raw, type_, "job.toml")
    assert str(error.value) == "\n".join(error.value.problems)
    return list(error.value.problems)


def test_a_good_file_becomes_a_frozen_struct(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('name = "nightly"\nfrom = "yesterday"\n[source]\nuri = "s3://lake/"\nchunk_rows = 5\n')
    job = load_toml(path, Job)
    assert job == Job(name="nightly", source=Source(uri="s3://lake/", chunk_rows=5), kept="yesterday")
    with pytest.raises(AttributeError):
        job.name = "other"  # type: ignore[misc]


def test_defaults_are_not_written_out() -> None:
    assert msgspec.to_builtins(Job(name="a", source="b")) == {"name": "a", "source": "b"}


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert problems(
        {
            "source": {"uri": 3, "chunk_rows": 0, "colums": ["a"]},
            "steps": [{"kind": "scale", "by": "two"}, {"kind": "fly"}, 7, {"by": 1.5}],
            "extra": [{"kind": "drop"}, {"kind": "scale", "to": 1}],
            "limits": {"rows": -1, "bytes": 1, "time": "long"},
            "stages": {"first": {"chunk_rows": 1.5}},
            "sink": {"uri": "x", "columns": ["a", 1]},
            "kept": "a",
        }
    ) == [
        "job.toml: extra[1].to: unknown key; expected one of by, kind",
        "job.toml: kept: unknown key; expected one of extra, from, limits, name, sink, source, stages, steps",
        "job.toml: limits.rows: expected `int` >= 0, got -1",
        "job.toml: limits.time: expected `int`, got 'long'",
        "job.toml: name: required, but missing",
        "job.toml: sink.columns[1]: expected `str`, got 1",
        "job.toml: source.chunk_rows: expected `int` >= 1, got 0",
        "job.toml: source.colums: unknown key; expected one of chunk_rows, columns, uri",
        "job.toml: source.uri: expected `str`, got 3",
        "job.toml: stages.first.chunk_rows: expected `int`, got 1.5",
        "job.toml: stages.first.uri: required, but missing",
        "job.toml: steps[0].by: expected `float`, got 'two'",
        "job.toml: steps[1].kind: expected one of 'scale', 'drop', got 'fly'",
        "job.toml: steps[2]: expected `table`, got 7",
        "job.toml: steps[3].kind: required, but missing",
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"source": 3}, "source: expected `str | table`, got 3"),
        ({"steps": {"kind": "drop"}}, "steps: expected `array`, got {'kind': 'drop'}"),
        ({"limits": [1]}, "limits: expected `table`, got [1]"),
        ({"name": "x" * 10_000, "steps": "y" * 10_000}, "steps: expected `array`, got '" + "y" * 56 + "..."),
        ({"name": True}, "name: expected `str`, got True"),
    ],
)
def test_wrong_kinds(change: dict[str, Any], text: str) -> None:
    assert problems(GOOD | change) == [f"job.toml: {text}"]


def test_a_number_in_a_string_is_no_number() -> None:
    assert problems({"name": "n", "source": {"uri": "u", "chunk_rows": "10"}}) == [
        "job.toml: source.chunk_rows: expected `int`, got '10'"
    ]


def test_what_is_no_table_at_all() -> None:
    assert problems([1]) == ["job.toml: (top): expected `table`, got [1]"]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: no such file"):
        load_toml(tmp_path / "absent.toml", Job)
    (tmp_path / "broken.toml").write_text("name = \nx = 1\n")
    with pytest.raises(ConfigError, match=r"^broken\.toml: Invalid value \(at line 1"):
        load_toml(tmp_path / "broken.toml", Job)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe6"\n')
    with pytest.raises(ConfigError, match=r"^latin\.toml: .*utf-8"):
        load_toml(tmp_path / "latin.toml", Job)
    for text, told in (("x = " + "9" * 5000, "digits"), ("x = " + "[" * 9999 + "]" * 9999, "recursion")):
        (tmp_path / "endless.toml").write_text(text)
        with pytest.raises(ConfigError, match=rf"^endless\.toml: .*{told}"):
            load_toml(tmp_path / "endless.toml", Job)
    with pytest.raises(ConfigError, match=tmp_path.name):
        load_toml(tmp_path, Job)


def test_the_manifest_names_every_problem() -> None:
    found = problems(
        {
            "format": 2,
            "name": "-",
            "version": 1,
            "runtime": {"name": "tf", "artifact": "a"},
            "inputs": [],
            "outputs": {},
        },
        Manifest,
    )
    assert [p.split(":")[1].strip() for p in found] == ["format", "name", "outputs", "runtime.name", "version"]


# -- whatever is written ---------------------------------------------------------------------------------------

names = st.text(string.ascii_letters + "é _-.", min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | names
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(names, t, max_size=3), max_leaves=8)
keys = st.sampled_from(["name", "source", "steps", "extra", "limits", "stages", "sink", "from", "kind", "uri", "by"])


@given(st.dictionaries(keys | names, trees | st.dictionaries(keys, trees, max_size=3), max_size=6))
def test_decoding_either_succeeds_or_names_paths(raw: dict[str, Any]) -> None:
    """Never another exception, never an empty list; and what decodes is what msgspec itself would decode."""
    try:
        expected = msgspec.convert(raw, Job)
    except msgspec.ValidationError:
        found = problems(raw)
        assert found
        assert all(p.startswith("job.toml: ") and ": " in p[10:] for p in found)
        assert len(set(found)) == len(found)
    else:
        assert decode(raw, Job, "job.toml") == expected


sources = st.builds(Source, uri=names, chunk_rows=st.integers(1, 9), columns=st.lists(names).map(tuple))
steps = st.builds(Step, kind=st.sampled_from(["scale", "drop"]), by=st.none() | st.floats(allow_nan=False))
jobs = st.builds(
    Job,
    name=names,
    source=names | sources,
    steps=st.lists(steps, max_size=3).map(tuple),
    extra=st.none() | st.lists(steps, max_size=2),
    limits=st.dictionaries(names, st.integers(0, 2**62)),
    stages=st.dictionaries(names, sources, max_size=2),
    sink=st.none() | sources,
    kept=names,
)


@given(jobs)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, job: Job) -> None:
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(tomli_w.dumps(msgspec.to_builtins(job)), encoding="utf-8")
    assert load_toml(path, Job) == job


@given(jobs, st.data())
def test_one_wrong_value_is_one_problem_at_its_path(job: Job, data: st.DataObject) -> None:
    raw = tomllib.loads(tomli_w.dumps(msgspec.to_builtins(job)))
    places = [("name", raw), ("name2", raw)] + [(f"steps[{i}].kind", s) for i, s in enumerate(raw.get("steps", []))]
    path, table = data.draw(st.sampled_from(places))
    table[path.rpartition(".")[2]] = ["wrong"]
    found = problems(raw)
    assert len(found) == 1
    assert found[0].startswith(f"job.toml: {path}: ")
