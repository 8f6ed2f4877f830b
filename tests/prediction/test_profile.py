"""What calls cost is measured as far as it has to be: a model that is loaded beside others holds them up no longer."""

from pathlib import Path

import pytest

from tests.packages import make
from tidemill.model.package import open_package
from tidemill.model.signature import Input, Output
from tidemill.prediction.live import Live
from tidemill.prediction.profile import SIZES, Profile, measure

SLEEPS = """
import time


class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"x": ("FP64", [-1])}

    def predict(self, rows):
        time.sleep(SECONDS)
        return {"x": rows["x"]}
"""


def sleeps(directory: Path, seconds: str) -> Live:
    inputs, outputs = [Input(name="x", datatype="FP64")], [Output(name="x", datatype="FP64")]
    made = make(directory / "model", "python", SLEEPS.replace("SECONDS", seconds), inputs, outputs, name="sleeps")
    return Live.open(open_package(made.directory))


def test_no_long_call_is_made_to_learn_what_is_known(tmp_path: Path) -> None:
    live = sleeps(tmp_path, "0.004 * len(rows['x'])")
    found = measure(live, SIZES[:4], budget=60.0, longest=0.05)
    assert found.sizes == (1, 4)
    assert found.cost(64) == pytest.approx(64 * found.cost(1), rel=0.5)
    assert measure(live, SIZES[:3], budget=60.0).sizes == (1, 4, 16)


def test_a_model_that_takes_as_long_for_many_rows_is_measured_with_many(tmp_path: Path) -> None:
    found = measure(sleeps(tmp_path, "0.01"), budget=60.0, longest=0.002)
    assert found.sizes == SIZES
    assert found.rows_within(0.05) >= SIZES[-1]


def test_the_best_size_is_the_smallest_of_the_best() -> None:
    assert Profile((1, 4, 16), (1.0, 2.0, 7.7)).best_rows == 16
    assert Profile((1, 4, 16), (1.0, 2.0, 8.0)).best_rows == 4
