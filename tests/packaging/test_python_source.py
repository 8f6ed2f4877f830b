"""Python models: declared inputs and outputs, files taken along, requirements pinned to what is installed."""

import shutil
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import models
from tidemill.errors import PackageError, TidemillError
from tidemill.model.package import write_package
from tidemill.packaging import PackageOptions, package_model
from tidemill.packaging.python_source import pinned
from tidemill.prediction.live import Live

MODEL = """
class Model:
    inputs = {"x": ("FP32", [-1, 2])}
    outputs = {"y": ("FP32", [-1])}

    def predict(self, rows):
        return {"y": rows["x"].sum(axis=1)}
"""


def source(directory: Path, text: str = MODEL) -> Path:
    path = directory / "adder.py"
    path.write_text(text)
    return path


def refused(directory: Path, text: str, options: PackageOptions | None = None) -> str:
    with pytest.raises(PackageError) as caught:
        package_model(source(directory, text), directory / "out", options)
    assert not (directory / "out").exists()
    return str(caught.value)


def test_what_the_class_declares_is_the_signature(models_dir: Path) -> None:
    manifest = models.python_model(models_dir).manifest
    assert [(i.name, i.datatype, i.shape, i.nullable) for i in manifest.inputs] == [
        ("x", "FP32", (-1, 3), False),
        ("count", "INT64", (-1,), True),
        ("city", "BYTES", (-1,), True),
    ]
    assert manifest.inputs[2].categories == ("Bern", "Genève", "Zürich")
    assert manifest.requirements == (f"numpy=={version('numpy')}",)
    assert sorted(manifest.files) == ["model.py", "profile.json", "samples.arrow", "weights.json"]


def test_another_installed_version_is_refused_by_name_at_load(models_dir: Path, tmp_path: Path) -> None:
    package = models.python_model(models_dir)
    manifest = msgspec.structs.replace(package.manifest, requirements=("numpy==1.0.0", "no-such-thing==2"))

    def fill(stage: Path) -> None:
        shutil.copytree(package.directory, stage, dirs_exist_ok=True)

    other = write_package(tmp_path / "other", manifest, fill)
    with pytest.raises(PackageError) as caught:
        Live.open(other)
    assert f"numpy is {version('numpy')}, the package was made with 1.0.0" in str(caught.value)
    assert "no-such-thing 2 is not installed" in str(caught.value)


def test_named_columns_fill_a_tensor(tmp_path: Path) -> None:
    pq.write_table(pa.table({"b": [1.0, 2.0], "a": [3.0, 4.0], "k": [1, 2]}), tmp_path / "t.parquet")
    options = PackageOptions(like=str(tmp_path / "t.parquet"), drop=("k",))
    package = package_model(source(tmp_path), tmp_path / "out", options).package
    assert [c.name for c in package.manifest.inputs[0].columns] == ["b", "a"]
    live = Live.open(package)
    rows = live.intake.from_arrays({"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)})
    assert live.predict(rows).outputs["y"].tolist() == [2, 2, 2]
    (tmp_path / "again").mkdir()
    told = refused(tmp_path / "again", MODEL, PackageOptions(columns=("a",)))
    assert told == "--columns: x takes 2 columns, 1 are named"


def test_requirements_beside_the_file_are_pinned(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# what it needs\nnumpy>=1.20\n\npyarrow  # tables\n")
    package = package_model(source(tmp_path), tmp_path / "out").package
    assert package.manifest.requirements == (f"numpy=={version('numpy')}", f"pyarrow=={version('pyarrow')}")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("no-such-thing", "requirement no-such-thing is not installed"),
        ("numpy==1.0", f"requirement numpy is {version('numpy')} here, 1.0 is asked for"),
        ("-r other.txt", "requirement '-r other.txt' is not a distribution's name"),
        ("./wheel.whl", "requirement './wheel.whl' is not a distribution's name"),
    ],
)
def test_requirements_that_cannot_be_pinned_are_refused(line: str, told: str) -> None:
    with pytest.raises(PackageError) as caught:
        pinned([line], "m.py")
    assert told in str(caught.value)


def test_directories_are_included_without_byte_code(tmp_path: Path) -> None:
    helpers = tmp_path / "helpers"
    (helpers / "__pycache__").mkdir(parents=True)
    (helpers / "__pycache__" / "x.pyc").write_bytes(b"")
    (helpers / "__init__.py").write_text("FACTOR = 3\n")
    text = "from .helpers import FACTOR\n" + MODEL.replace(".sum(axis=1)", ".sum(axis=1) * FACTOR")
    options = PackageOptions(include=(str(helpers),))
    package = package_model(source(tmp_path, text), tmp_path / "out", options).package
    assert sorted(package.manifest.files) == ["helpers/__init__.py", "model.py"]
    live = Live.open(package)
    assert live.predict(live.intake.from_arrays({"x": np.ones((1, 2), np.float32)})).outputs["y"].tolist() == [6]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1", "adder.py defines no class Model"),
        ("import no_such_module", "adder.py cannot be loaded: ModuleNotFoundError"),
        (MODEL.replace("inputs =", "input ="), "adder.py: Model: inputs must be a dict of name: (datatype, shape)"),
        (MODEL.replace("FP32", "float"), "adder.py: Model: inputs['x']: unknown datatype 'float'"),
        (MODEL.replace("[-1, 2]", "2"), "adder.py: Model: inputs['x'] is ('FP32', 2), expected (datatype, shape)"),
        (MODEL.replace("[-1, 2]", "[2]"), "inputs[0] (x): shape [2] must begin with -1, the rows"),
        (MODEL.replace("predict", "guess"), "Model has no method predict(self, rows)"),
        (MODEL + "    def load(self, directory):\n        open(directory / 'w')\n", "FileNotFoundError"),
    ],
)
def test_what_is_wrong_with_a_class_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(TidemillError) as caught:
        package_model(source(tmp_path, text), tmp_path / "out")
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_fails_on_its_own_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.0], "b": [2.0]}), tmp_path / "t.parquet")
    text = MODEL.replace('{"y": rows', '{"z": rows')
    told = refused(tmp_path, text, PackageOptions(like=str(tmp_path / "t.parquet")))
    assert told == "the model fails on a row of the table: the model failed: no output 'y'; the model gave z"


def test_includes_are_checked(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    told = refused(tmp_path, MODEL, PackageOptions(include=(str(tmp_path / "model.py"),)))
    assert "a package has its own model.py; rename the file" in told
    told = refused(tmp_path, MODEL, PackageOptions(include=(str(tmp_path / "gone.bin"),)))
    assert "gone.bin: no such file or directory" in told
