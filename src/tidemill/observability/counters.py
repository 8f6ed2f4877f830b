"""What one model version did: requests by outcome, where their time went, and the calls of the model.

Written by the event loop's thread into memory shared with a file: outcomes and rows before the answers leave, times
(`fold`) for some hundred requests together.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.observability import families
from tidemill.observability.families import ROWS, SECONDS, Family
from tidemill.observability.reading import Totals, total
from tidemill.observability.recorder import Recorder, name_of

__all__ = ["OUTCOMES", "STAGES", "Counters"]

OUTCOMES = (
    *("ok", "invalid_input", "rows_rejected", "too_large", "unsupported_encoding"),
    *("overloaded", "unavailable", "late", "model_failed", "internal", "cancelled"),
)
STAGES = ("read", "decode", "queue", "compute", "encode", "write")
# Batch sizes told apart; what is larger or comes later is counted under the next power of two.
SIZES = 64
SUM = len(SECONDS) + 1
# Requests and calls whose times are held back until they are counted together.
FOLD = 256

Floats = NDArray[np.float64]
Answered = tuple[int, float, float, float, float, float, float]
"""Rows, and the moments of a request: received, read, queued, started, finished, encoded."""
WIDTH = 7


class Counters:
    """One model version's counts and times, of this process, since it first served it."""

    __slots__ = (
        "_answered",
        "_busy",
        "_call_rows",
        "_call_seconds",
        "_calls",
        "_error_seconds",
        "_failed",
        "_held",
        "_held_calls",
        "_info",
        "_labels",
        "_last",
        "_load_seconds",
        "_merged",
        "_ok",
        "_outcomes",
        "_queued",
        "_recorder",
        "_refusals",
        "_rows",
        "_sizes",
        "_times",
        "_waiting",
    )

    def __init__(self, recorder: Recorder | None = None, model: str = "", version: str = "") -> None:
        """Without a recorder the numbers are kept in private memory."""
        self._recorder = recorder = recorder or Recorder()
        self._labels = labels = {"model": model, "version": version}
        values = recorder.values
        self._outcomes = {name: values(families.REQUESTS, **labels, outcome=name) for name in OUTCOMES}
        self._refusals: dict[str, memoryview[float]] = {}
        self._ok = self._outcomes["ok"]
        self._error_seconds = values(families.REQUEST_SECONDS, **labels, result="error")
        # In the order of the moments of a request; then the whole.
        self._times = [self._array(families.STAGE_SECONDS, stage=name) for name in STAGES]
        self._times.append(self._array(families.REQUEST_SECONDS, result="ok"))
        self._rows = values(families.ROWS_ANSWERED, **labels)
        self._calls = values(families.CALLS, **labels)
        self._merged = values(families.MERGED, **labels)
        self._call_rows = self._array(families.CALL_ROWS)
        self._call_seconds = self._array(families.CALL_SECONDS)
        self._failed = values(families.FAILED, **labels)
        self._last = values(families.LAST, **labels)
        self._queued = values(families.QUEUED, **labels)
        self._busy = values(families.BUSY, **labels)
        self._load_seconds = values(families.LOAD_SECONDS, **labels)
        self._info: memoryview[float] | None = None
        self._sizes: dict[int, Floats] = {}
        # Of the model call that is being answered; of calls before, with the moments at which their answers were given.
        self._answered: list[Answered] = []
        self._held: list[tuple[list[Answered], float]] = []
        self._held_calls: list[tuple[int, float, float, float, int]] = []
        self._waiting = 0

    @property
    def execution_count(self) -> int:
        """Model calls that answered rows."""
        self.fold()
        return int(self._calls[0])

    def served(self, runtime: str, fingerprint: str) -> None:
        """The model is served from now on, until it is withdrawn."""
        self._info = self._recorder.values(
            families.MODEL_INFO, **self._labels, runtime=runtime, fingerprint=fingerprint
        )
        self._info[0] = 1

    def withdrawn(self) -> None:
        """The model is not served any more; what it counted stays."""
        self.fold()
        self.waits(0, 0)
        if self._info is not None:
            self._info[0] = 0

    def loaded(self, seconds: float) -> None:
        """Verifying, loading and warming up took so long."""
        self._load_seconds[0] = seconds

    def waits(self, rows: int, threads: int) -> None:
        """So many rows wait now, and so many threads are in a model call."""
        self._queued[0] = rows
        self._busy[0] = threads

    def answering(self, requests: int, rows: int) -> None:
        """So many requests get an answer now, so many rows of it: counted before it leaves, since the next instant may
        be this process's last.
        """
        self._ok[0] += requests
        self._rows[0] += rows

    def succeeded(
        self, rows: int, received: float, read: float, queued: float, started: float, finished: float, encoded: float
    ) -> None:
        """The answer that was counted by `answering` has left; `executed` of the model call that gave it must follow.

        Moments of `time.monotonic()`: its head had come, its body had, it was queued, its (merged) model call
        began, ended, its answer was encoded.
        """
        self._answered.append((rows, received, read, queued, started, finished, encoded))

    def failed(self, received: float, code: str, reason: str = "") -> None:
        """A request was answered with an error now: its code, and why it was refused if it was."""
        now = monotonic()
        outcome = self._outcomes.get(code)
        if outcome is None:
            outcome = self._recorder.values(families.REQUESTS, **self._labels, outcome=code)
            self._outcomes[code] = outcome
        outcome[0] += 1
        if reason:
            refusals = self._refusals.get(reason)
            if refusals is None:
                refusals = self._recorder.values(families.REFUSALS, **self._labels, reason=reason)
                self._refusals[reason] = refusals
            refusals[0] += 1
        seconds = now - received
        self._failed[0] += 1
        self._failed[1] += seconds
        if code != "cancelled":
            self._error_seconds[bisect_left(SECONDS, seconds)] += 1
            self._error_seconds[SUM] += seconds
        self._last[0] = time.time()

    def executed(self, rows: int, gathering: float, running: float, delivering: float, requests: int = 1) -> None:
        """A model call for so many requests ended, which answered so many rows (0 if it answered none): seconds to
        merge its callers' rows, to run, to answer them.
        """
        answered = self._answered
        n = len(answered)
        if n:
            self._answered = []
            self._held.append((answered, monotonic()))
            self._waiting += n
            if self._waiting >= FOLD:
                self._fold_requests()
        if rows:
            self._held_calls.append((rows, gathering, running, delivering, requests))
            if len(self._held_calls) >= FOLD:
                self._fold_calls()

    def fold(self) -> None:
        """Count the times that are held back: many together cost a tenth of what each alone would.

        To be called now and then, too, where little is asked.
        """
        if self._held:
            self._fold_requests()
        if self._held_calls:
            self._fold_calls()

    def _fold_requests(self) -> None:
        held, self._held = self._held, []
        self._waiting = 0
        self._last[0] = time.time() - (monotonic() - held[-1][1])
        sizes = [len(answered) for answered, _ in held]
        numbers = chain.from_iterable(chain.from_iterable([answered for answered, _ in held]))
        table = np.fromiter(numbers, float, WIDTH * sum(sizes)).reshape(-1, WIDTH).T
        handed = np.repeat([moment for _, moment in held], sizes)
        moments = np.vstack((table[1:], handed))
        seconds = np.vstack((np.diff(moments, axis=0), handed - moments[0]))
        for place, counts, whole in zip(self._times, _spread(seconds, SECONDS), seconds.sum(axis=1), strict=True):
            place[:-1] += counts
            place[-1] += whole

    def _fold_calls(self) -> None:
        calls, self._held_calls = self._held_calls, []
        table = np.array(calls, float).T
        rows, _, running, _, requests = table
        self._calls[0] += len(calls)
        self._merged[0] += np.count_nonzero(requests > 1)
        for place, values, edges in ((self._call_rows, rows, ROWS), (self._call_seconds, running, SECONDS)):
            place[:-1] += _spread(values[None], edges)[0]
            place[-1] += values.sum()
        sizes, which = np.unique(rows, return_inverse=True)
        parts = [np.bincount(which, part) for part in (np.ones(len(calls)), *table[1:4])]
        for size, *sums in zip(sizes.tolist(), *parts, strict=True):
            self._batch(int(size))[:] += sums

    def _batch(self, rows: int) -> Floats:
        size = rows
        if size not in self._sizes and len(self._sizes) >= SIZES:
            size = 1 << (rows - 1).bit_length()
        if size not in self._sizes:
            self._sizes[size] = self._array(families.BATCHES, rows=str(size))
        return self._sizes[size]

    def _array(self, family: Family, **labels: str) -> Floats:
        return np.asarray(self._recorder.values(family, **self._labels, **labels))

    def totals(self) -> Totals | None:
        """What all processes that share the directory counted, if there is one. Reads its files."""
        self.fold()
        directory = self._recorder.directory
        return None if directory is None else total(directory)

    def snapshot(self, totals: Totals | None = None) -> dict[str, Any]:
        """The statistics extension's fields of one model, without its name and version, over the processes of
        `totals`, or of this one.
        """

        def numbers(family: Family, **labels: str) -> Sequence[float]:
            if totals is None:
                return self._recorder.values(family, **self._labels, **labels)
            found = totals.series.get(name_of(family, self._labels | labels))
            return [0.0] * family.values if found is None else found.values

        self.fold()
        sizes: dict[int, Sequence[float]] = {size: sums.tolist() for size, sums in self._sizes.items()}
        if totals is not None:
            mine = [one for one in totals.of(families.BATCHES.name) if self._labels.items() <= one.labels.items()]
            sizes = {int(one.labels["rows"]): one.values for one in mine}
        n = numbers(families.REQUESTS, outcome="ok")[0]
        failed, failed_seconds = numbers(families.FAILED)
        stage = {name: numbers(families.STAGE_SECONDS, stage=name)[SUM] for name in STAGES}
        return {
            "last_inference": round(numbers(families.LAST)[0] * 1e3),
            "inference_count": int(numbers(families.ROWS_ANSWERED)[0]),
            "execution_count": int(numbers(families.CALLS)[0]),
            "inference_stats": {
                "success": _duration(n, numbers(families.REQUEST_SECONDS, result="ok")[SUM]),
                "fail": _duration(failed, failed_seconds),
                "queue": _duration(n, stage["queue"]),
                "compute_input": _duration(n, stage["decode"]),
                "compute_infer": _duration(n, stage["compute"]),
                "compute_output": _duration(n, stage["encode"] + stage["write"]),
                "cache_hit": _duration(0, 0.0),
                "cache_miss": _duration(0, 0.0),
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": _duration(count, gathering),
                    "compute_infer": _duration(count, running),
                    "compute_output": _duration(count, delivering),
                }
                for size, (count, gathering, running, delivering) in sorted(sizes.items())
            ],
        }


def _spread(values: Floats, edges: tuple[float, ...]) -> Floats:
    """How many of each line fall into each bucket, one more than there are edges."""
    lines, n = values.shape
    width = len(edges) + 1
    places = np.searchsorted(edges, values.ravel()) + np.repeat(np.arange(lines) * width, n)
    return np.bincount(places, minlength=lines * width).reshape(lines, width).astype(float)


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": round(seconds * 1e9)}
