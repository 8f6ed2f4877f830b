"""Shadow: another version answers copies of calls that were answered, and the answers are compared.

Copies are made after the answer has left, wait in a short queue, are answered one at a time on a thread of their own
while the process has nothing else to do, and are dropped first.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

import numpy as np

from tidemill.model.signature import Output
from tidemill.prediction.live import Live
from tidemill.prediction.result import Result
from tidemill.prediction.workers import Workers
from tidemill.realtime.models.options import ShadowOptions
from tidemill.rows import Array, Rows

__all__ = ["Shadow", "agreeing"]

log = logging.getLogger(__name__)

# Seconds between two looks whether the process is idle, and after which a copy is not worth answering any more.
PAUSE = 0.005
STALE = 1.0


class Shadow:
    """Copies calls to one version. Everything but the model call belongs to the event loop's thread.

    Counts calls that `matched` (every row as the answer that was given, within the package's tolerances),
    `mismatched`, `failed` (the shadow did not answer a row that was answered) and were `dropped`; `seconds` is the time
    of its model calls.
    """

    def __init__(
        self, live: Live, options: ShadowOptions, busy: Callable[[], bool], loop: asyncio.AbstractEventLoop
    ) -> None:
        """`busy` tells whether the process has work that must not wait."""
        self.version = live.package.version
        self.matched = self.mismatched = self.failed = self.dropped = 0
        self.seconds = 0.0
        self.live = live
        self.options = options
        self._busy = busy
        self._loop = loop
        self._waiting: deque[tuple[float, Rows, Rows]] = deque()
        self._open = True
        self._working = False
        self._timer: asyncio.TimerHandle | None = None
        self._workers = Workers(1, f"shadow-{live.package.name}")
        self._draw = random.Random().random  # noqa: S311 - which calls are copied is no secret

    def copy(self, rows: Rows, result: Result, start: int, stop: int) -> None:
        """Rows were answered with rows start to stop of a result, and the answer has been sent."""
        options = self.options
        if not self._open or (options.share < 1.0 and self._draw() >= options.share):
            return
        if result.problems and result.problems_of(start, stop):
            return
        if len(self._waiting) >= options.queue:
            self.dropped += 1
            return
        self._waiting.append((monotonic(), rows, result.outputs.slice(start, stop)))
        if self._timer is None and not self._working:
            self._timer = self._loop.call_later(PAUSE, self._next)

    def _next(self) -> None:
        self._timer = None
        now = monotonic()
        while self._waiting and self._waiting[0][0] < now - STALE:
            self._waiting.popleft()
            self.dropped += 1
        if not self._waiting:
            return
        if self._busy():
            self._timer = self._loop.call_later(PAUSE, self._next)
            return
        _, rows, given = self._waiting.popleft()
        self._working = True
        self._workers.submit(partial(self._answer, rows, given))

    def _answer(self, rows: Rows, given: Rows) -> None:
        began = monotonic()
        agreed: bool | None = None
        try:
            result = self.live.predict(rows)
            if not result.problems:
                agreed = agreeing(self.live.package.manifest.outputs, given, result.outputs)
        except Exception:
            log.exception("the shadow's path itself failed")
        seconds = monotonic() - began
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._count, agreed, seconds)

    def _count(self, agreed: bool | None, seconds: float) -> None:
        self._working = False
        self.seconds += seconds
        if agreed is None:
            self.failed += 1
        elif agreed:
            self.matched += 1
        else:
            self.mismatched += 1
        if self._waiting and self._timer is None:
            self._timer = self._loop.call_later(0.0, self._next)

    def told(self) -> dict[str, Any]:
        """The counts, for the statistics of the version it shadows."""
        return {
            "version": self.version,
            "matched": self.matched,
            "mismatched": self.mismatched,
            "failed": self.failed,
            "dropped": self.dropped,
            "compute_ns": round(self.seconds * 1e9),
        }

    def close(self) -> None:
        """Answer no more copies."""
        self._open = False
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._workers.close()


def agreeing(outputs: tuple[Output, ...], given: Rows, found: Rows) -> bool:
    """Whether every output in both has the same values, floats within the tolerance declared; two NaN are the same."""
    return all(
        _same(given.columns[one.name], found.columns[one.name], one.tolerance)
        for one in outputs
        if one.name in given.columns
    )


def _same(a: Array, b: Array, tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    near = (a == b) | (np.isnan(a) & np.isnan(b))
    if tolerance and not near.all():
        finite = np.isfinite(a) & np.isfinite(b)
        off = np.full(a.shape, np.inf)
        np.subtract(a, b, out=off, where=finite, dtype=np.float64)
        near |= np.abs(off) <= tolerance
    return bool(near.all())
