"""A model that raises for some rows of a call, in every runtime: the others are answered as if alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.runtimes import packages
from tidemill.model.package import Package
from tidemill.model.signature import Input, Output
from tidemill.prediction.live import Live
from tidemill.rows import Rows

GUILTY = [0, 3, 4, 17, 30]
N = 31


def _onnx(directory: Path) -> Package:
    return packages.make(
        directory,
        "onnx",
        packages.gathering(4),
        [Input(name="index", datatype="INT64")],
        [Output(name="y", datatype="FP32")],
    )


def _onnx_rows(live: Live) -> Rows:
    index = np.arange(N) % 4
    index[GUILTY] = 99
    return live.intake.from_arrays({"index": index})


def _sklearn(directory: Path) -> Package:
    frame, target = packages.people()
    model = packages.pipeline(LogisticRegression(), handle_unknown="error").fit(frame, target)
    return packages.sklearn_package(directory, model, packages.PEOPLE_INPUTS, [Output(name="label", datatype="BYTES")])


def _sklearn_rows(live: Live) -> Rows:
    city = np.array(["Oslo"] * N, object)
    city[GUILTY] = "Atlantis"
    return live.intake.from_arrays({"age": np.arange(N) + 20, "income": np.full(N, 3e4), "city": city})


def _python(directory: Path) -> Package:
    body = """
if (rows["x"] == 13).any():
    raise SystemExit("unlucky")
return {"y": rows["x"] * 2}
"""
    inputs, outputs = [Input(name="x", datatype="FP64")], [Output(name="y", datatype="FP64")]
    return packages.python_package(directory, body, inputs, outputs)


def _python_rows(live: Live) -> Rows:
    values = np.arange(N) + 100.0
    values[GUILTY] = 13
    return live.intake.from_arrays({"x": values})


@pytest.mark.parametrize(
    ("build", "draw", "reason"),
    [
        (_onnx, _onnx_rows, "indices element out of data bounds"),
        (_sklearn, _sklearn_rows, "ValueError: Found unknown categories"),
        (_python, _python_rows, "SystemExit: unlucky"),
    ],
    ids=["onnx", "sklearn", "python"],
)
def test_only_the_guilty_rows_fail(build, draw, reason: str, tmp_path: Path) -> None:
    live = Live.open(build(tmp_path / "p"))
    rows = draw(live)
    result = live.predict(rows)
    assert [p.row for p in result.problems] == GUILTY
    for problem in result.problems:
        assert problem.code == "model_failed"
        assert problem.message.startswith("the model failed: ")
        assert reason in problem.message
    good = np.setdiff1d(np.arange(N), GUILTY)
    alone = live.predict(rows.take(good))
    assert not alone.problems
    for name, array in alone.outputs.columns.items():
        assert result.outputs[name][good].tolist() == array.tolist()
