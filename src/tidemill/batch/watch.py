"""What is watched while a run goes: counts, the error budget, the wish to stop, and progress told at a human pace."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from tidemill.batch.options import Progress
from tidemill.errors import BudgetExceeded

__all__ = ["GivenUp", "Stopped", "Watch"]

# A rate means little before this many rows; a budget of none needs no sample.
SAMPLE_ROWS = 10_000
_TELL_EVERY = 0.1


class Stopped(Exception):
    """Another shard failed, or the driver was told to stop."""


class GivenUp(Exception):
    """This shard is left to a later attempt; the others go on."""


class Watch:
    """Shared by all threads of a driver."""

    def __init__(
        self,
        run_id: str,
        total_rows: int | None,
        shards: int,
        max_error_rate: float | None,
        tell: Callable[[Progress], None] | None,
        *,
        max_errors: int | None = None,
    ) -> None:
        self._run_id = run_id
        self._total_rows = total_rows
        self._shards = shards
        self._rate = max_error_rate
        self._most = max_errors
        self._tell = tell
        self._lock = threading.Lock()
        self._errors: Counter[str] = Counter()
        self._read = self._dead = self._done = self._resumed = 0
        self._began = time.monotonic()
        self._told = 0.0
        self._attempts: dict[int, int] = {}
        self.stopping = threading.Event()
        """Set by `stop`."""
        self.deaths = 0
        """Worker processes that ended while they answered."""

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
            if self.stopping.is_set():
                raise Stopped
            self._judge(sampled=self._read >= SAMPLE_ROWS)
            self._progress(due=time.monotonic() - self._told >= _TELL_EVERY)

    def take_back(self, rows: int, errors: Mapping[str, int]) -> None:
        """Count no more what was noted of a shard that is scored again."""
        with self._lock:
            self._read -= rows
            self._errors.subtract(errors)
            self._dead -= sum(errors.values())

    def again(self, shard: int, attempt: int) -> None:
        """A shard is begun once more: its second, third, … attempt of this execution."""
        with self._lock:
            self._attempts[shard] = attempt

    @property
    def attempts(self) -> dict[int, int]:
        """How often shards were begun, of those that were begun more than once."""
        with self._lock:
            return dict(self._attempts)

    def sealed(self) -> None:
        """Count a shard as done."""
        with self._lock:
            self._done += 1
            self._progress(due=time.monotonic() - self._told >= _TELL_EVERY)

    def stop(self) -> None:
        """Let every shard end at its next chunk."""
        self.stopping.set()

    def finish(self) -> None:
        """Judge the budget over all rows and tell the last progress."""
        with self._lock:
            self._progress(due=True)
            self._judge(sampled=True)

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
            return self._read, self._dead, self._counted()

    def _judge(self, *, sampled: bool) -> None:
        dead, read = self._dead, self._read
        allowed = None
        if self._most is not None and dead > self._most:
            allowed = f"{self._most} may"
        elif self._rate is not None and (sampled or self._rate == 0) and dead > self._rate * read:
            allowed = f"{self._rate:.2%} may"
        if allowed is not None:
            code, rows = self._errors.most_common(1)[0]
            raise BudgetExceeded(
                f"{dead} of {read} rows failed ({dead / read:.2%}); at most {allowed}; the most common reason is "
                f"{code} ({rows} rows)"
            )

    def _counted(self) -> dict[str, int]:
        return {code: rows for code, rows in self._errors.items() if rows}

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
                errors=self._counted(),
                attempts=dict(self._attempts),
            )
        )
