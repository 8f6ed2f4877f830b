"""Which rows a model call is for is told before it, and what is transient is asked again and never halved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.packages import make
from tidemill.model.package import open_package
from tidemill.model.signature import Input, Output
from tidemill.prediction.live import Live
from tidemill.rows import Rows

MODEL = """
from tidemill.errors import Transient

class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def predict(self, rows):
        if (rows["x"] == 13).any():
            raise ValueError("thirteen")
        if (rows["x"] == 99).any():
            raise Transient("busy")
        return {"y": rows["x"]}
"""


@pytest.fixture
def live(tmp_path: Path) -> Live:
    inputs, outputs = [Input(name="x", datatype="FP64", minimum=0)], [Output(name="y", datatype="FP64")]
    package = make(tmp_path / "package", "python", MODEL, inputs, outputs)
    return Live.open(open_package(package.directory), call_rows=4)


def asked(live: Live, x: list[float]) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    live.on_call = lambda first, last: told.append((first, last))
    live.predict(Rows({"x": np.array(x)}, len(x)))
    return told


def test_calls_are_told_by_their_rows(live: Live) -> None:
    assert asked(live, [1.0] * 10) == [(0, 4), (4, 8), (8, 10)]


def test_rejected_rows_are_in_no_call(live: Live) -> None:
    """The first call is for rows 1, 2, 4 and 5, the next for 7 and 8."""
    assert asked(live, [-1.0, 1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0]) == [(1, 6), (7, 9)]


def test_halves_are_calls(live: Live) -> None:
    assert asked(live, [1.0, 1.0, 13.0, 1.0]) == [(0, 4), (0, 2), (2, 4), (2, 3), (3, 4)]


def test_what_is_transient_is_not_halved(live: Live) -> None:
    assert asked(live, [1.0, 99.0, 1.0, 1.0]) == [(0, 4)]
    result = live.predict(Rows({"x": np.array([1.0, 99.0])}, 2))
    assert [(p.row, p.code, p.message) for p in result.problems] == [
        (i, "model_failed", "the model failed: busy") for i in range(2)
    ]


def test_it_is_asked_again_while_somebody_waits_for_it(live: Live) -> None:
    tries: list[int] = []
    live.again = lambda failed: tries.append(failed) or failed < 3
    result = live.predict(Rows({"x": np.array([1.0, 99.0])}, 2))
    assert tries == [1, 2, 3]
    assert {p.code for p in result.problems} == {"transient"}
