"""What one model version did: requests by outcome, where their time went, and the calls of the model.

Written by the event loop's thread straight into memory shared with a file, before the answers leave the process.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import sub
from time import monotonic
from typing import Any

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
ROWS_SUM = len(ROWS) + 1


class Counters:
    """One model version's counts and times, of this process, since it first served it."""

    __slots__ = (
        "_batches",
        "_busy",
        "_call_rows",
        "_call_seconds",
        "_calls",
        "_compute",
        "_decode",
        "_encode",
        "_error_seconds",
        "_failed",
        "_info",
        "_labels",
        "_last",
        "_load_seconds",
        "_merged",
        "_ok",
        "_ok_seconds",
        "_outcomes",
        "_pending",
        "_queue",
        "_queued",
        "_read",
        "_recorder",
        "_refusals",
        "_rows",
        "_sizes",
        "_write",
    )

    def __init__(self, recorder: Recorder | None = None, model: str = "", version: str = "") -> None:
        """Without a recorder the numbers are kept in private memory."""
        self._recorder = recorder = recorder or Recorder()
        self._labels = labels = {"model": model, "version": version}
        values = recorder.values
        self._outcomes = {name: values(families.REQUESTS, **labels, outcome=name) for name in OUTCOMES}
        self._refusals: dict[str, memoryview[float]] = {}
        self._ok = self._outcomes["ok"]
        self._ok_seconds = values(families.REQUEST_SECONDS, **labels, result="ok")
        self._error_seconds = values(families.REQUEST_SECONDS, **labels, result="error")
        stages = [values(families.STAGE_SECONDS, **labels, stage=name) for name in STAGES]
        self._read, self._decode, self._queue, self._compute, self._encode, self._write = stages
        self._rows = values(families.ROWS_ANSWERED, **labels)
        self._calls = values(families.CALLS, **labels)
        self._merged = values(families.MERGED, **labels)
        self._call_rows = values(families.CALL_ROWS, **labels)
        self._call_seconds = values(families.CALL_SECONDS, **labels)
        self._failed = values(families.FAILED, **labels)
        self._last = values(families.LAST, **labels)
        self._queued = values(families.QUEUED, **labels)
        self._busy = values(families.BUSY, **labels)
        self._load_seconds = values(families.LOAD_SECONDS, **labels)
        self._info: memoryview[float] | None = None
        # By the rows of a call, and by the size that these are counted under.
        self._batches: dict[int, memoryview[float]] = {}
        self._sizes: dict[int, memoryview[float]] = {}
        self._pending: list[tuple[int, float, float, float, float, float, float]] = []

    @property
    def execution_count(self) -> int:
        """Model calls that answered rows."""
        return int(self._calls[0])

    def served(self, runtime: str, fingerprint: str) -> None:
        """The model is served from now on, until it is withdrawn."""
        self._info = self._recorder.values(
            families.MODEL_INFO, **self._labels, runtime=runtime, fingerprint=fingerprint
        )
        self._info[0] = 1

    def withdrawn(self) -> None:
        """The model is not served any more; what it counted stays."""
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

    def succeeded(
        self, rows: int, received: float, read: float, queued: float, started: float, finished: float, encoded: float
    ) -> None:
        """A request was answered, so many rows of it; `executed` of the model call that did must follow at once.

        Moments of `time.monotonic()`: its head had come, its body had, it was queued, its (merged) model call
        began, ended, its answer was encoded.
        """
        self._pending.append((rows, received, read, queued, started, finished, encoded))

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
        if self._pending:
            self._count_answered()
        if not rows:
            return
        self._calls[0] += 1
        if requests > 1:
            self._merged[0] += 1
        self._call_rows[bisect_left(ROWS, rows)] += 1
        self._call_rows[ROWS_SUM] += rows
        self._call_seconds[bisect_left(SECONDS, running)] += 1
        self._call_seconds[SUM] += running
        sums = self._batches.get(rows)
        if sums is None:
            sums = self._batch(rows)
        sums[0] += 1
        sums[1] += gathering
        sums[2] += running
        sums[3] += delivering

    def _batch(self, rows: int) -> memoryview[float]:
        size = rows if len(self._sizes) < SIZES else 1 << max(0, rows - 1).bit_length()
        sums = self._sizes.get(size)
        if sums is None:
            sums = self._sizes[size] = self._recorder.values(families.BATCHES, **self._labels, rows=str(size))
        if len(self._batches) < 2 * SIZES:
            self._batches[rows] = sums
        return sums

    def _count_answered(self) -> None:
        """Count what one model call answered, as handed to its connections now."""
        now = monotonic()
        pending, self._pending = self._pending, []
        n = len(pending)
        self._ok[0] += n
        self._last[0] = time.time()
        if n == 1:
            rows, received, read, queued, started, finished, encoded = pending[0]
            self._rows[0] += rows
            for place, seconds in (
                (self._ok_seconds, now - received),
                (self._read, read - received),
                (self._decode, queued - read),
                (self._queue, started - queued),
                (self._compute, finished - started),
                (self._encode, encoded - finished),
                (self._write, now - encoded),
            ):
                place[bisect_left(SECONDS, seconds)] += 1
                place[SUM] += seconds
            return
        rows_, received_, read_, queued_, started_, finished_, encoded_ = map(list, zip(*pending, strict=True))
        started, finished = started_[0], finished_[0]
        self._rows[0] += sum(rows_)
        _between(self._read, received_, read_)
        _between(self._decode, read_, queued_)
        # Nearly always in this order already: then sorting is one look.
        received_.sort()
        queued_.sort()
        encoded_.sort()
        _since(self._ok_seconds, received_, now)
        _since(self._queue, queued_, started)
        _until(self._encode, finished, encoded_)
        _since(self._write, encoded_, now)
        seconds = finished - started
        self._compute[bisect_left(SECONDS, seconds)] += n
        self._compute[SUM] += n * seconds

    def totals(self) -> Totals | None:
        """What all processes that share the directory counted, if there is one. Reads its files."""
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

        sizes: dict[int, Sequence[float]] = dict(self._sizes)
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


def _since(place: memoryview[float], moments: list[float], end: float) -> None:
    """Count the durations from each moment, in ascending order, to `end`.

    Mates are alike: a few cuts say how many fall into each bucket, where one by one each would be looked up.
    """
    stop = len(moments)
    last = bisect_left(SECONDS, end - moments[0])
    for bucket in range(bisect_left(SECONDS, end - moments[-1]), last):
        start = bisect_left(moments, end - SECONDS[bucket], 0, stop)
        place[bucket] += stop - start
        stop = start
    place[last] += stop
    place[SUM] += len(moments) * end - sum(moments)


def _until(place: memoryview[float], begin: float, moments: list[float]) -> None:
    """Count the durations from `begin` to each moment, in ascending order."""
    start = 0
    last = bisect_left(SECONDS, moments[-1] - begin)
    for bucket in range(bisect_left(SECONDS, moments[0] - begin), last):
        stop = bisect_right(moments, begin + SECONDS[bucket], start)
        place[bucket] += stop - start
        start = stop
    place[last] += len(moments) - start
    place[SUM] += sum(moments) - len(moments) * begin


def _between(place: memoryview[float], begins: list[float], ends: list[float]) -> None:
    """Count the durations from each moment to another."""
    durations = list(map(sub, ends, begins))
    place[SUM] += sum(durations)
    if max(durations) <= SECONDS[0]:
        place[0] += len(durations)
        return
    for seconds in durations:
        place[bisect_left(SECONDS, seconds)] += 1


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": round(seconds * 1e9)}
