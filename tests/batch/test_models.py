"""Every kind of model: a batch run gives what `Live` gives, row for row; what fails in the model is a dead letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import models
from tidemill.batch import ScoreOptions, score
from tidemill.errors import ConfigError
from tidemill.model.package import Package
from tidemill.model.samples import read_samples
from tidemill.packaging import PackageOptions, package_model
from tidemill.prediction.live import Live

KINDS: list[Callable[[Path], Package]] = [
    models.onnx_trees,
    models.onnx_network,
    models.sklearn_pipeline,
    models.skops_pipeline,
    models.python_model,
]


@pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_batch_is_live(models_dir: Path, tmp_path: Path, make: Callable[[Path], Package], sink: str) -> None:
    package = make(models_dir)
    samples = read_samples(package)
    assert samples is not None
    table = pa.concat_tables([pa.Table.from_batches([samples[0]])] * 7)
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=50)
    options = ScoreOptions(chunk_rows=33, call_rows=10, workers=2)
    report = score(package.directory, tmp_path / "in.parquet", tmp_path / sink, options)
    live = Live.open(package, call_rows=10)
    result = live.predict(live.intake.from_arrow(table.combine_chunks().to_batches()[0]))
    bad = {p.row for p in result.problems}
    assert (report.written, report.dead) == (table.num_rows - len(bad), len(bad))
    found = pl.read_parquet(tmp_path / sink / "*.parquet" if sink == "out" else tmp_path / sink)
    good = [i for i in range(table.num_rows) if i not in bad]
    assert found.columns == [o.name for o in package.manifest.outputs]
    for output in package.manifest.outputs:
        expected = result.outputs[output.name][good]
        got = found[output.name].to_list()
        if output.type.is_float:
            np.testing.assert_allclose(np.array(got), expected, rtol=0, atol=output.tolerance)
        else:
            assert got == expected.tolist()


FRAIL = """
class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def predict(self, rows):
        if (rows["x"] == 13).any():
            raise ValueError("thirteen")
        return {"y": rows["x"] * 2}
"""

WIDE = """
import numpy as np

class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"many": ("FP64", [-1, -1])}

    def predict(self, rows):
        x = rows["x"]
        return {"many": np.repeat(x[:, None], 2 + int(x[0]) // 100, axis=1)}
"""


def python_package(directory: Path, source: str) -> Path:
    (directory / "source.py").write_text(source)
    package_model(directory / "source.py", directory / "package", PackageOptions())
    return directory / "package"


def test_a_row_the_model_fails_on_is_a_letter(tmp_path: Path) -> None:
    package = python_package(tmp_path, FRAIL)
    pq.write_table(pa.table({"x": np.arange(200.0)}), tmp_path / "in.parquet")
    report = score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(chunk_rows=50))
    assert (report.written, report.dead, report.errors) == (199, 1, {"model_failed": 1})
    letters = pl.read_parquet(tmp_path / "out" / "_tidemill" / "dead" / "*.parquet")
    assert letters["_row"].to_list() == [13]
    assert letters["_message"].to_list() == ["the model failed: ValueError: thirteen"]


def test_an_output_of_varying_width_is_a_list(tmp_path: Path) -> None:
    """Its width follows the first row of each call, and a chunk is a call."""
    package = python_package(tmp_path, WIDE)
    pq.write_table(pa.table({"x": np.arange(200.0, 400.0)}), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(chunk_rows=100))
    found = pl.read_parquet(tmp_path / "out" / "*.parquet")
    assert found["many"].to_list() == [[x] * (4 if x < 300 else 5) for x in np.arange(200.0, 400.0).tolist()]
    with pytest.raises(ConfigError, match=r"column 'many' of list.* has no fixed number of cells"):
        score(package, tmp_path / "in.parquet", tmp_path / "out.csv")
