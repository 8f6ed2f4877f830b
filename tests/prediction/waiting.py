"""Calls that only wait, for what decides about them without a model."""

import math

import numpy as np

from tidemill.errors import TidemillError
from tidemill.prediction.call import Call
from tidemill.prediction.result import Result
from tidemill.rows import Rows


class Waiting(Call):
    """A call of n rows."""

    __slots__ = ()

    def __init__(
        self, n: int = 1, priority: int = 0, kind: object = None, deadline: float = math.inf, queued: float = 0.0
    ) -> None:
        Call.__init__(self, Rows({"x": np.zeros(n, np.float32)}, n), deadline, priority)
        self.kind = kind
        self.queued = queued
        self.size = self.rows.nbytes

    def answered(self, result: Result, start: int, stop: int) -> None:
        raise AssertionError("nothing answers it")

    def failed(self, error: TidemillError) -> None:
        raise AssertionError("nothing tells it")
