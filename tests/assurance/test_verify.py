"""All modes agree on real packages; where a model does not, verify says in which mode and how. Real servers."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from tests import models
from tests.assurance.support import SCORE, every_datatype, python_package
from tidemill.assurance import modes
from tidemill.assurance.tables import read_rows
from tidemill.assurance.verify import verify
from tidemill.errors import InputError, ModelError, SourceError, Unavailable
from tidemill.model.package import Package
from tidemill.model.signature import Output
from tidemill.prediction.live import Live

MODES = ["in-process", "batch", "REST JSON", "REST binary", "gRPC"]
REAL = [models.onnx_trees, models.onnx_network, models.sklearn_pipeline, models.skops_pipeline, models.python_model]


@pytest.mark.parametrize("model", REAL, ids=lambda m: m.__name__)
def test_all_modes_agree_on_real_packages(model: Callable[[Path], Package], models_dir: Path) -> None:
    found = verify(model(models_dir).directory, rows=300)
    assert [m.mode for m in found.modes] == MODES
    assert found.agrees, found.modes
    for mode in found.modes:
        assert mode.rows == mode.equal == mode.statuses == mode.texts == 300
    assert found.bad == 30


def test_all_modes_agree_on_every_datatype(tmp_path: Path) -> None:
    found = verify(every_datatype(tmp_path).directory, rows=500)
    assert found.agrees, [m.difference for m in found.modes]
    assert found.bad == 50  # each of the 40 rules broken
    assert found.source == "the signature"


def test_a_model_whose_answers_depend_on_the_call_is_caught(tmp_path: Path) -> None:
    x = pa.array(np.arange(50), pa.float32())
    score = pa.array(np.zeros(50), pa.float32())
    package = python_package(
        tmp_path, "return {'score': rows['x'] - rows['x'].max()}", samples=({"x": x}, {"score": score})
    )
    found = verify(package.directory, rows=200)
    assert not found.agrees
    # A server may happen to merge all requests into one call, and then gives the answers of one.
    assert {"batch"} <= {m.mode for m in found.modes if not m.agrees} <= set(MODES[1:])
    batch = found.modes[1]
    assert batch.equal < batch.rows
    assert batch.largest > 0
    assert batch.difference.startswith("score[")


def test_a_declared_tolerance_is_honoured_and_the_difference_told(tmp_path: Path) -> None:
    loose = Output(name="score", datatype="FP32", tolerance=0.5)
    wobbly = "return {'score': rows['x'] + np.float32(os.getpid() % 7 / 20)}"
    package = python_package(tmp_path, wobbly, outputs=[loose], head="import os")
    found = verify(package.directory, rows=50)
    assert found.agrees
    assert all(m.largest <= 0.5 for m in found.modes)


def test_texts_that_differ_between_modes_are_caught(tmp_path: Path) -> None:
    failing = "if (rows['x'] > 3).any():\n    raise ValueError(f'process {os.getpid()}')\nreturn {'score': rows['x']}"
    x = pa.array([1, 2, 3, 4], pa.float32())
    package = python_package(tmp_path, failing, head="import os", samples=({"x": x}, {"score": x}))
    found = verify(package.directory, rows=20)
    batch, json = found.modes[1], found.modes[2]
    for mode in (batch, json):  # each answers in a process of its own
        assert not mode.agrees
        assert mode.statuses == mode.rows
        assert mode.texts < mode.rows
        assert f"process {os.getpid()}" in mode.difference


def test_nothing_is_proven_where_no_row_is_answered(tmp_path: Path) -> None:
    package = python_package(tmp_path, "raise ValueError('never')")
    with pytest.raises(ModelError, match=r"none of 20 rows is answered.*ValueError: never"):
        verify(package.directory, rows=20)


def test_rows_that_depend_on_each_other_go_as_one_call(tmp_path: Path) -> None:
    package = python_package(
        tmp_path, "return {'score': rows['x'] - rows['x'].max()}", outputs=[SCORE], rows_independent=False
    )
    found = verify(package.directory, rows=100)
    assert found.agrees
    assert found.bad == 0


def test_nan_and_infinities_are_equal_where_json_writes_null(tmp_path: Path) -> None:
    odd = "s = rows['x'] * 0\ns[::3] = np.nan\ns[1::3] = np.inf\nreturn {'score': s}"
    found = verify(python_package(tmp_path, odd, rows_independent=False).directory, rows=30)
    assert found.agrees, [m.difference for m in found.modes]


def test_rows_are_taken_from_a_table_in_any_format(tmp_path: Path) -> None:
    package = python_package(tmp_path, "return {'score': rows['x'] * 2}")
    table = tmp_path / "rows.csv"
    pa_csv.write_csv(pa.table({"other": ["a"] * 40, "x": np.arange(40)}), table)
    found = verify(package.directory, str(table), rows=100)
    assert found.agrees
    assert found.source == str(table)
    assert found.rows == 100


def test_rows_are_read_as_a_batch_run_reads_them(tmp_path: Path) -> None:
    """A column that stands in the names of the directories, too."""
    package = python_package(tmp_path, "return {'score': rows['x'] * 2}")
    for x in (1, 2):
        (tmp_path / "rows" / f"x={x}").mkdir(parents=True)
        (tmp_path / "rows" / f"x={x}" / "part.csv").write_text("other\na\nb\n")
    batch = read_rows(str(tmp_path / "rows"), Live.open(package), 3)
    assert batch.to_pydict() == {"x": [1.0, 1.0, 2.0]}


def test_a_table_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    package = python_package(tmp_path, "return {'score': rows['x'] * 2}")
    with pytest.raises(SourceError, match="nothing"):
        verify(package.directory, str(tmp_path / "nothing.parquet"))
    (tmp_path / "other.csv").write_text("y\n1\n")
    with pytest.raises(SourceError, match=r"other\.csv: column 'x' is missing"):
        verify(package.directory, str(tmp_path / "other.csv"))
    (tmp_path / "empty.csv").write_text("x\n")
    with pytest.raises(InputError, match="has no rows"):
        verify(package.directory, str(tmp_path / "empty.csv"))


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not a model package"), modes.serving(tmp_path):
        pass


def test_the_server_ends_with_the_block(tmp_path: Path) -> None:
    package = python_package(tmp_path, "return {'score': rows['x'] * 2}")
    with modes.serving(package.directory) as address:
        client = modes.Client(*address)
        assert client.ready()
        client.close()
    assert not modes.Client(*address).ready()
