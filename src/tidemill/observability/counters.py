"""Counts and durations of inference, with the meanings of Triton's statistics extension.

Kept as plain sums in seconds by the event loop's thread, so that one request costs a few additions.
"""

from __future__ import annotations

import time
from time import monotonic
from typing import Any

__all__ = ["Counters"]

# Batch sizes told apart; what is larger or comes later is counted under the next power of two.
SIZES = 64


class Counters:
    """One model version's sums since it was loaded."""

    __slots__ = (
        "_sizes",
        "execution_count",
        "fail",
        "fail_seconds",
        "infer_seconds",
        "inference_count",
        "input_seconds",
        "last",
        "output_seconds",
        "queue_seconds",
        "success",
        "success_seconds",
    )

    def __init__(self) -> None:
        self.inference_count = 0
        self.execution_count = 0
        self.success = 0
        self.fail = 0
        self.success_seconds = 0.0
        self.fail_seconds = 0.0
        self.queue_seconds = 0.0
        self.input_seconds = 0.0
        self.infer_seconds = 0.0
        self.output_seconds = 0.0
        self.last = 0.0
        self._sizes: dict[int, list[float]] = {}

    def succeeded(
        self, rows: int, received: float, read: float, queued: float, started: float, finished: float
    ) -> None:
        """A request was answered now, so many rows of it. Moments of `time.monotonic()`: it was received, its body
        looked at, it was queued, its (merged) model call begun and ended.
        """
        self.last = now = monotonic()
        self.success += 1
        self.inference_count += rows
        self.success_seconds += now - received
        self.input_seconds += queued - read
        self.queue_seconds += started - queued
        self.infer_seconds += finished - started
        self.output_seconds += now - finished

    def failed(self, received: float) -> None:
        """A request was answered with an error now."""
        self.last = now = monotonic()
        self.fail += 1
        self.fail_seconds += now - received

    def executed(self, rows: int, gathering: float, running: float, delivering: float) -> None:
        """A model call that answered so many rows ended: seconds to merge its callers' rows, to run, to answer them."""
        self.execution_count += 1
        sums = self._sizes.get(rows)
        if sums is None:
            size = rows if len(self._sizes) < SIZES else 1 << max(0, rows - 1).bit_length()
            sums = self._sizes.setdefault(size, [0, 0.0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += gathering
        sums[2] += running
        sums[3] += delivering

    def snapshot(self) -> dict[str, Any]:
        """The statistics extension's fields of one model, without its name and version."""
        last = time.time() - (monotonic() - self.last) if self.last else 0.0
        n = self.success
        return {
            "last_inference": round(last * 1e3),
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {
                "success": _duration(n, self.success_seconds),
                "fail": _duration(self.fail, self.fail_seconds),
                "queue": _duration(n, self.queue_seconds),
                "compute_input": _duration(n, self.input_seconds),
                "compute_infer": _duration(n, self.infer_seconds),
                "compute_output": _duration(n, self.output_seconds),
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
                for size, (count, gathering, running, delivering) in sorted(self._sizes.items())
            ],
        }


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": round(seconds * 1e9)}
