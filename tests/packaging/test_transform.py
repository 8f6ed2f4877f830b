"""`transform.py` stands between the signature and the model, and the package takes what it takes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.packaging.graphs import doubler
from tidemill.errors import PackageError
from tidemill.packaging import PackageOptions, package_model
from tidemill.prediction.live import Live

BEFORE = """
import numpy as np

def before(rows):
    city = np.array([1.0 if c == "Bern" else 0.0 for c in rows["city"]])
    return {"x": np.column_stack([rows["amount"], city]).astype(np.float32)}
"""
AFTER = """
outputs = {"total": ("FP32", [-1])}

def after(rows):
    return {"total": rows["y"].sum(axis=1)}
"""


def write(directory: Path, text: str) -> str:
    (directory / "t.py").write_text(text)
    return str(directory / "t.py")


def table(directory: Path) -> str:
    columns = {"amount": [1.0, 2.0, None], "city": ["Bern", "Wil", None], "day": [1, 2, 3]}
    pq.write_table(pa.table(columns), directory / "t.parquet")
    return str(directory / "t.parquet")


def test_before_takes_the_columns_of_the_table(tmp_path: Path) -> None:
    options = PackageOptions(transform=write(tmp_path, BEFORE + AFTER), like=table(tmp_path), drop=("day",))
    package = package_model(doubler(tmp_path / "m.onnx", ["n", 2]), tmp_path / "out", options).package
    manifest = package.manifest
    assert [(i.name, i.datatype, i.nullable) for i in manifest.inputs] == [
        ("amount", "FP64", True),
        ("city", "BYTES", True),
    ]
    assert [(o.name, o.shape) for o in manifest.outputs] == [("total", (-1,))]
    assert manifest.transform in manifest.files
    live = Live.open(package)
    rows = live.intake.from_arrow(pa.RecordBatch.from_pydict({"amount": [10.0], "city": ["Bern"]}))
    assert live.predict(rows).outputs["total"].tolist() == [22]


def test_a_transform_may_declare_its_inputs(tmp_path: Path) -> None:
    text = 'inputs = {"a": ("INT64", [-1])}\n\ndef before(rows):\n    import numpy as np\n'
    text += "    return {'x': np.column_stack([rows['a'], rows['a']]).astype(np.float32)}\n"
    options = PackageOptions(transform=write(tmp_path, text))
    package = package_model(doubler(tmp_path / "m.onnx", ["n", 2]), tmp_path / "out", options).package
    live = Live.open(package)
    assert live.predict(live.intake.from_arrays({"a": np.array([3])})).outputs["y"].tolist() == [[6, 6]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1", "t.py defines neither before(rows) nor after(rows)"),
        (
            "def before(rows):\n    return rows\n\ninputs = {'a': 1}",
            "t.py: inputs['a'] is 1, expected (datatype, shape)",
        ),
        ("1 / 0", "t.py cannot be loaded: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, told: str) -> None:
    source = doubler(tmp_path / "m.onnx", ["n", 2])
    with pytest.raises(PackageError) as caught:
        package_model(source, tmp_path / "out", PackageOptions(transform=write(tmp_path, text)))
    assert told in str(caught.value)
    with pytest.raises(PackageError, match="no such file"):
        package_model(source, tmp_path / "out", PackageOptions(transform=str(tmp_path / "gone.py")))
