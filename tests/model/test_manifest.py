"""`model.toml` is written and read without loss, and everything wrong in it is told at once."""

import string
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tidemill.config import load_toml
from tidemill.errors import ConfigError, PackageError
from tidemill.model.manifest import Manifest, Origin, RuntimeSpec, Slo
from tidemill.model.package import open_package
from tidemill.model.signature import Column, Input, Output

names = st.text(min_size=1, max_size=12)
numbers = st.floats(allow_nan=False) | st.integers(-(2**62), 2**62).map(float)
columns = st.builds(
    Column, name=names, nullable=st.booleans(), minimum=st.none() | numbers, maximum=st.none() | numbers
)
inputs = st.builds(
    Input,
    name=names,
    datatype=st.sampled_from(["FP32", "FP64", "INT64", "BYTES", "BOOL"]),
    shape=st.lists(st.sampled_from([-1, 1, 30]), min_size=1, max_size=3).map(tuple),
    nullable=st.booleans(),
    minimum=st.none() | numbers,
    maximum=st.none() | numbers,
    categories=st.lists(names | st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple),
    binary=st.booleans(),
    fill=st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    columns=st.lists(columns, max_size=2).map(tuple),
)
outputs = st.builds(
    Output,
    name=names,
    datatype=st.sampled_from(["FP32", "INT64", "BYTES"]),
    labels=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    tolerance=st.floats(0, 1),
    source=st.none() | names,
    threshold=st.none() | numbers,
    top_k=st.none() | st.integers(1, 9),
)
plain = st.text(string.ascii_letters, min_size=1, max_size=8)
manifests = st.builds(
    Manifest,
    format=st.just(1),
    name=plain,
    version=plain,
    task=st.sampled_from(["classification", "regression", "other"]),
    description=st.text(),
    rows_independent=st.booleans(),
    entity_key=st.lists(names, max_size=2).map(tuple),
    requirements=st.lists(names, max_size=2).map(tuple),
    runtime=st.builds(
        RuntimeSpec,
        name=st.sampled_from(["onnx", "sklearn", "python"]),
        artifact=names,
        max_call_rows=st.none() | st.integers(1, 100),
    ),
    slo=st.builds(Slo, p99_ms=st.floats(0.001, 1e6)),
    inputs=st.lists(inputs, max_size=3).map(tuple),
    outputs=st.lists(outputs, max_size=3).map(tuple),
    origin=st.none() | st.builds(Origin, kind=names, file=names, sha256=names, tools=st.dictionaries(names, names)),
    files=st.dictionaries(names, st.text("0123456789abcdef", min_size=64, max_size=64), max_size=3),
)


@given(manifests)
def test_a_manifest_survives_toml(manifest: Manifest) -> None:
    text = tomli_w.dumps(msgspec.to_builtins(manifest))
    assert msgspec.convert(tomllib.loads(text), Manifest) == manifest


SMALLEST: dict[str, Any] = {
    "format": 1,
    "name": "m",
    "version": "1",
    "runtime": {"name": "onnx", "artifact": "model.onnx"},
    "inputs": [{"name": "x", "datatype": "FP32"}],
    "outputs": [{"name": "y", "datatype": "FP32"}],
    "files": {"model.onnx": "0" * 64},
}


def write(directory: Path, **changed: Any) -> Path:
    (directory / "model.toml").write_text(tomli_w.dumps({**SMALLEST, **changed}))
    return directory


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        nmae="x",
        version="-",
        runtime={"name": "tensorflow", "artifact": "m", "thread": 2},
        inputs=[{"name": "x", "datatype": "BF16"}, {"datatype": "FP32", "shap": [-1]}],
        slo={"p99_ms": 0},
    )
    with pytest.raises(ConfigError) as caught:
        load_toml(tmp_path / "model.toml", Manifest)
    paths = {p.split(": ")[1] for p in caught.value.problems}
    assert paths == {
        "nmae",
        "version",
        "runtime.name",
        "runtime.thread",
        "inputs[0].datatype",
        "inputs[1].name",
        "inputs[1].shap",
        "slo.p99_ms",
    }
    assert all(p.startswith("model.toml: ") for p in caught.value.problems)


def test_a_format_of_the_future_is_named(tmp_path: Path) -> None:
    write(tmp_path, format=2, tomorrow={"x": 1})
    with pytest.raises(PackageError, match=r"format 2 is newer than this Tidemill reads \(1\); upgrade tidemill"):
        open_package(tmp_path)


@pytest.mark.parametrize("format_", [0, "1", 1.5, True])
def test_a_format_that_never_was_is_refused(tmp_path: Path, format_: object) -> None:
    write(tmp_path, format=format_)
    with pytest.raises(ConfigError, match=r"model\.toml: format: "):
        open_package(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/x", "a/../../x", "a\\b", "a//b", "./a", "model.toml", ""])
def test_files_stay_inside_the_package(tmp_path: Path, name: str) -> None:
    files = {"model.onnx": "0" * 64, name: "0" * 64}
    write(tmp_path, files=files)
    with pytest.raises(ConfigError, match="is not a plain path inside the package"):
        open_package(tmp_path)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("runtime.artifact", {"runtime": {"name": "onnx", "artifact": "../secret.onnx"}}),
        ("runtime.artifact", {"files": {}}),
        ("transform", {"transform": "/tmp/transform.py"}),
        ("samples", {"samples": "elsewhere.arrow"}),
        ("profile", {"profile": "elsewhere.json"}),
    ],
)
def test_whatever_is_read_has_a_digest(tmp_path: Path, field: str, changed: dict[str, Any]) -> None:
    write(tmp_path, **changed)
    with pytest.raises(ConfigError, match=rf"model\.toml: {field}: .* is not in \[files\]"):
        open_package(tmp_path)


@pytest.mark.parametrize("field", ["name", "version"])
def test_a_line_break_is_no_part_of_a_name(tmp_path: Path, field: str) -> None:
    write(tmp_path, **{field: "x\n"})
    with pytest.raises(ConfigError, match=rf"model\.toml: {field}: 'x\\n' ends with a line break"):
        open_package(tmp_path)


def test_more_threads_than_any_machine_has_are_refused(tmp_path: Path) -> None:
    """A million of them would take the machine before anything was refused."""
    write(tmp_path, runtime={"name": "onnx", "artifact": "model.onnx", "threads": 1_000_000})
    with pytest.raises(ConfigError, match=r"runtime\.threads: expected `int` <= 1024"):
        open_package(tmp_path)


def test_what_is_not_toml_says_where(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text("format = 1\nname = = 2\n")
    with pytest.raises(ConfigError, match=r"model\.toml: .*line 2"):
        open_package(tmp_path)
