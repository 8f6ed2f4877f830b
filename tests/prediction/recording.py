"""A runtime that notes the size of each call before the real one answers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.runtimes.packages import python_package
from tidemill.model.signature import Input, Output
from tidemill.prediction.live import Live
from tidemill.rows import Rows
from tidemill.runtimes import Runtime, load_runtime

X = (Input(name="x", datatype="FP64"),)
Y = (Output(name="y", datatype="FP64"),)

# Fails for every call that holds a 13; otherwise doubles.
UNLUCKY = "if (rows['x'] == 13).any():\n    raise ValueError('13')\nreturn {'y': rows['x'] * 2}"


class Recording:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.version = runtime.version
        self.releases_gil = runtime.releases_gil
        self.calls: list[int] = []

    def run(self, rows: Rows) -> Rows:
        self.calls.append(rows.n)
        return self._runtime.run(rows)


def recorded(
    directory: Path,
    predict: str = UNLUCKY,
    inputs: tuple[Input, ...] = X,
    outputs: tuple[Output, ...] = Y,
    *,
    call_rows: int | None = None,
    **manifest: Any,
) -> tuple[Live, list[int]]:
    """A Python model with the given body of `predict`, and the list that its calls' sizes are noted in."""
    package = python_package(directory, predict, inputs, outputs, **manifest)
    runtime = Recording(load_runtime(package))
    return Live(package, runtime, call_rows=call_rows), runtime.calls
