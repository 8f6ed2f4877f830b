"""What is watched while a run goes: counts, the error budget, the wish to stop, and progress told at a human pace."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from tidemill.batch.options import Progress
from tidemill.errors import BudgetExceeded

__all__ = ["Stopped", "Watch"]

# A rate means little before this many rows; a budget of none needs no sample.
SAMPLE_ROWS = 10_000
_TELL_EVERY = 0.1


class Stopped(Exception):
    """Another shard failed, or the driver was told to stop."""


class Watch:
    """Shared by all threads of a driver."""

    def __init__(
        self,
        run_id: str,
        total_rows: int | None,
        shards: int,
        max_error_rate: float | None,
        tell: Callable[[Progress], None] | None,
    ) -> None:
        self._run_id = run_id
        self._total_rows = total_rows
        self._shards = shards
        self._rate = max_error_rate
        self._tell = tell
        self._lock = threading.Lock()
        self._errors: Counter[str] = Counter()
        self._read = self._dead = self._done = self._resumed = 0
        self._began = time.monotonic()
        self._told = 0.0
        self._stopped = False

    def resumed(self, rows: int, errors: Mapping[str, int]) -> None:
        """Count a shard that an earlier execution sealed."""
        with self._lock:
            self._read += rows
            self._resumed += rows
            self._errors.update(errors)
            self._dead += sum(errors.values())
            self._done += 1

    def note(self, rows: int, errors: Mapping[str, int]) -> None:
        """Count a chunk. Raises Stopped after `stop`, BudgetExceeded once the budget is spent."""
        with self._lock:
            self._read += rows
            self._errors.update(errors)
            self._dead += sum(errors.values())
            if self._stopped:
                raise Stopped
            if self._rate == 0 or self._read >= SAMPLE_ROWS:
                self._judge()
            self._progress(due=time.monotonic() - self._told >= _TELL_EVERY)

    def sealed(self) -> None:
        """Count a shard as done."""
        with self._lock:
            self._done += 1
            self._progress(due=time.monotonic() - self._told >= _TELL_EVERY)

    def stop(self) -> None:
        """Let every shard end at its next chunk."""
        self._stopped = True

    def finish(self) -> None:
        """Judge the budget over all rows and tell the last progress."""
        with self._lock:
            self._progress(due=True)
            self._judge()

    @property
    def seconds(self) -> float:
        """Since the watch began."""
        return time.monotonic() - self._began

    @property
    def fresh_rows(self) -> int:
        """Rows read by this execution."""
        return self._read - self._resumed

    def totals(self) -> tuple[int, int, dict[str, int]]:
        """Rows read, dead rows, and dead rows by code."""
        with self._lock:
            return self._read, self._dead, dict(self._errors)

    def _judge(self) -> None:
        if self._rate is not None and self._dead > self._rate * self._read:
            most = self._errors.most_common(1)[0]
            raise BudgetExceeded(
                f"{self._dead} of {self._read} rows failed ({self._dead / self._read:.2%}); at most {self._rate:.2%} "
                f"may; the most common reason is {most[0]} ({most[1]} rows)"
            )

    def _progress(self, *, due: bool) -> None:
        if self._tell is None or not due:
            return
        self._told = time.monotonic()
        self._tell(
            Progress(
                run_id=self._run_id,
                rows_read=self._read,
                rows_written=self._read - self._dead,
                rows_dead=self._dead,
                total_rows=self._total_rows,
                resumed_rows=self._resumed,
                shards_done=self._done,
                shards=self._shards,
                seconds=self.seconds,
                errors=dict(self._errors),
            )
        )
