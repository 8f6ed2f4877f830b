"""Which call a worker process is in, and since when: a page of memory that it writes and its driver reads.

What a killed process was at stays to be read there; a message that it would have sent does not.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from tidemill.batch.workers.channel import Shared

__all__ = ["At", "Heartbeat"]

_FIRST, _LAST, _SINCE = range(3)
BYTES = 4096


class At(NamedTuple):
    """The rows of the call, from the first to before the last, and when it began (nanoseconds, monotonic)."""

    first: int
    last: int
    since: int


class Heartbeat:
    """Each cell is written whole; `since` is zero outside of calls, and is set last and taken back first."""

    def __init__(self, shared: Shared) -> None:
        self._cells = np.frombuffer(shared.map(write=True), np.int64, 3)

    def call(self, first: int, last: int) -> None:
        """A model call begins."""
        cells = self._cells
        cells[_SINCE] = 0
        cells[_FIRST] = first
        cells[_LAST] = last
        cells[_SINCE] = time.monotonic_ns()

    def rest(self) -> None:
        """No call is being made."""
        self._cells[_SINCE] = 0

    def at(self) -> At | None:
        """Where the process is, or was when it ended; None outside of calls."""
        since = int(self._cells[_SINCE])
        return At(int(self._cells[_FIRST]), int(self._cells[_LAST]), since) if since else None
