"""Samples and profile are read back as they were written, and damage is told with the file's name."""

from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from tidemill.errors import PackageError
from tidemill.model.manifest import Manifest, RuntimeSpec
from tidemill.model.package import Package, write_package
from tidemill.model.profile import PROFILE_FILE, ColumnProfile, TableProfile, read_profile, write_profile
from tidemill.model.samples import SAMPLES_FILE, read_samples, write_samples
from tidemill.model.signature import Input, Output

MANIFEST = Manifest(
    format=1,
    name="m",
    version="1",
    runtime=RuntimeSpec(name="python", artifact="model.py"),
    inputs=(Input(name="x", datatype="FP32"),),
    outputs=(Output(name="y", datatype="FP32"),),
)
INPUTS = pa.RecordBatch.from_pydict({"x": [1.5, None], "city": ["Bern", None], "v": [[1, 2], [3, 4]]})
OUTPUTS = pa.RecordBatch.from_pydict({"y": [0.25, float("nan")], "x": [True, False]})
PROFILE = TableProfile(
    format=1,
    table="t.csv",
    rows=9,
    columns=(
        ColumnProfile(name="x", type="double", missing=1, minimum=-1.5, maximum=2.0),
        ColumnProfile(name="city", type="string", values=("Bern", "Genève")),
    ),
)


def make(directory: Path, *, damaged: bool = False) -> Package:
    def fill(stage: Path) -> None:
        (stage / "model.py").write_text("")
        write_samples(stage / SAMPLES_FILE, INPUTS, OUTPUTS)
        write_profile(stage / PROFILE_FILE, PROFILE)
        if damaged:
            (stage / SAMPLES_FILE).write_bytes(b"not arrow")
            (stage / PROFILE_FILE).write_text('{"format": 2}')

    manifest = msgspec.structs.replace(MANIFEST, samples=SAMPLES_FILE, profile=PROFILE_FILE)
    return write_package(directory / "m", manifest, fill)


def test_both_come_back_as_they_were(tmp_path: Path) -> None:
    package = make(tmp_path)
    found = read_samples(package)
    assert found is not None
    assert found[0].equals(INPUTS)
    assert found[1].schema == OUTPUTS.schema
    assert found[1].column("x").to_pylist() == [True, False]
    assert read_profile(package) == PROFILE


def test_a_package_without_them_has_none(tmp_path: Path) -> None:
    package = write_package(tmp_path / "m", MANIFEST, lambda stage: (stage / "model.py").touch())
    assert read_samples(package) is None
    assert read_profile(package) is None


def test_damage_is_told_by_name(tmp_path: Path) -> None:
    package = make(tmp_path, damaged=True)
    with pytest.raises(PackageError, match=r"m/samples\.arrow: not an Arrow IPC file"):
        read_samples(package)
    with pytest.raises(PackageError, match=r"m/profile\.json: "):
        read_profile(package)
