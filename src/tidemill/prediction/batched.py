"""Batched(Live): calls that wait together are answered together; admission, deadlines and cancellation.

Work-conserving, no timer but the deadlines': calls appended in one turn of the event loop form one model call. It
runs inline while that is expected to be short, else on a thread, and what arrives meanwhile gathers. Every method
belongs to the event loop's thread; only `_work` runs elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from tidemill.errors import Late, Overloaded, TidemillError, Unavailable
from tidemill.observability.counters import Counters
from tidemill.prediction.live import Live
from tidemill.prediction.profile import Profile
from tidemill.prediction.result import Result
from tidemill.prediction.workers import Workers
from tidemill.rows import Rows

__all__ = ["BatchLimits", "Batched", "Call"]

log = logging.getLogger(__name__)

# Left callers' places in the queue are swept out once there are this many, and more of them than of others.
SWEEP_GONE = 32
# Inline calls that have become too slow go to threads for so many seconds.
THREADS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`max_rows` and `max_bytes` of one merged model call; `max_queue_rows` and `max_queue_bytes` waiting;
    `inline_seconds` under which a call runs on the event loop; `workers` calls at a time on threads.
    """

    max_rows: int = 1024
    max_bytes: int = 64 << 20
    max_queue_rows: int = 65_536
    max_queue_bytes: int = 1 << 30
    inline_seconds: float = 0.0003
    workers: int = 1


class Call(ABC):
    """One caller's rows on their way. Subclasses say what becomes of the answer.

    Exactly one of `answered` and `failed` is called, once, on the event loop, unless the call is cancelled: then
    neither is. `deadline` is a `time.monotonic()` moment, and so are `queued`, `started` and `finished`, which tell
    how long the call waited and its (merged) model call took.
    """

    __slots__ = ("deadline", "done", "finished", "kind", "queued", "rows", "size", "started", "waits_in")

    def __init__(self, rows: Rows, deadline: float) -> None:
        self.rows = rows
        self.deadline = deadline
        self.done = False
        self.waits_in: Batched | None = None
        self.size = 0  # bytes of its rows, counted only where it may have to wait
        self.queued = self.started = self.finished = 0.0
        self.kind: object = None

    @abstractmethod
    def answered(self, result: Result, start: int, stop: int) -> None:
        """Rows start to stop of a result, which may be a merged one, are this caller's."""

    @abstractmethod
    def failed(self, error: TidemillError) -> None:
        """There is no answer. The error may be shared with other calls."""

    def cancel(self) -> None:
        """The caller left: if the work has not begun it never does; if it has, its answer is dropped."""
        if not self.done:
            self.done = True
            if self.waits_in is not None:
                self.waits_in.forget(self)


class Batched:
    """Answers calls through one Live, merging what waits together (unless rows depend on each other)."""

    def __init__(
        self, live: Live, profile: Profile, limits: BatchLimits, loop: asyncio.AbstractEventLoop, counters: Counters
    ) -> None:
        self.live = live
        self.profile = profile
        self.limits = limits
        self.counters = counters
        self.busy = 0  # threads in a model call, also those whose callers have given up
        self.queued_rows = 0  # of callers that still wait
        self._queued_bytes = 0
        self.on_model_failure: Callable[[], None] | None = None  # told of each call in which the model raised
        self._gone = 0  # callers in the queue that no longer wait
        self._running_until = 0.0
        self._pace = 1.0  # measured seconds of recent calls ÷ those the profile expected
        self._inline_seconds = 0.0  # what calls on the event loop took lately; one outlier counts for little
        self._threads_until = 0.0
        self._loop = loop
        self._queue: deque[Call] = deque()
        self._running: set[Call] = set()
        self._scheduled = False
        self._accepting = True
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._variable = [i.name for i in live.package.manifest.inputs if -1 in i.shape[1:]]
        quick = not live.may_block and profile.cost(1) <= limits.inline_seconds
        self._inline_rows = profile.rows_within(limits.inline_seconds) if quick else 0
        row_bytes = sum(i.row_bytes for i in live.package.manifest.inputs)
        self._most_rows = self._rows_of(row_bytes)
        # So little work that admission need not think about it.
        self._free_rows = min(self._inline_rows, limits.max_queue_rows)
        self._workers = Workers(limits.workers, f"model-{live.package.name}")

    @property
    def idle(self) -> bool:
        """Nothing waits and no thread is in a model call."""
        return not self._queue and not self.busy

    def overdue(self, seconds: float) -> bool:
        """Every thread is in a model call, and even the last of them should have returned so long ago."""
        return self.busy >= self.limits.workers and monotonic() > self._running_until + seconds

    # -- admission -----------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Queue a call. Raises Overloaded or Unavailable (nothing was begun), Late if its deadline has passed."""
        now = monotonic()
        rows = call.rows.n
        if not self._accepting:
            raise Unavailable("the server stopped", retry_after=1.0, reason="stopped")
        if now >= call.deadline:
            raise Late("the deadline passed before the request was read")
        if self.busy or self.queued_rows + rows > self._free_rows:
            self._admit(now, call)
        call.queued = now
        call.waits_in = self
        if self._variable:
            call.kind = tuple([call.rows.columns[n].shape[1:] for n in self._variable])
        self._queue.append(call)
        self.queued_rows += rows
        self._queued_bytes += call.size
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        if self.busy:
            self._set_alarm(call.deadline)

    def _admit(self, now: float, call: Call) -> None:
        waiting = self._waiting(now)
        rows, deadline, limits = call.rows.n, call.deadline, self.limits
        call.size = call.rows.nbytes
        full = ""
        if self.queued_rows + rows > limits.max_queue_rows:
            full = f"{self.queued_rows} rows wait, the limit is {limits.max_queue_rows}"
        elif self._queued_bytes + call.size > limits.max_queue_bytes:
            full = f"{self._queued_bytes} bytes wait, the limit is {limits.max_queue_bytes}"
        if full and self.queued_rows:  # one call may wait, whatever its size
            raise Overloaded(f"the queue is full: {full}", retry_after=waiting, reason="queue_full")
        cost = self.profile.cost(rows) * self._pace
        if now + waiting + cost > deadline:
            raise Overloaded(
                f"about {waiting * 1e3:.0f} ms of work wait and this call takes {cost * 1e3:.0f} ms; "
                f"its deadline is in {(deadline - now) * 1e3:.0f} ms",
                retry_after=waiting,
                reason="deadline",
            )

    def _waiting(self, now: float) -> float:
        """Expected seconds until a call appended now could begin."""
        size = min(self._most_rows, max(1, self.queued_rows))
        calls = self.queued_rows / size
        queued = calls * self.profile.cost(size) * self._pace / self.limits.workers
        running = max(0.0, self._running_until - now) if self.busy >= self.limits.workers else 0.0
        return running + queued

    def forget(self, call: Call) -> None:
        """A call in the queue no longer waits: it counts no more, and soon holds no memory."""
        call.waits_in = None
        self.queued_rows -= call.rows.n
        self._queued_bytes -= call.size
        self._gone += 1
        if self._gone > SWEEP_GONE and self._gone * 2 > len(self._queue):
            self._queue = deque([c for c in self._queue if not c.done])
            self._gone = 0

    # -- the work ------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._scheduled = False
        while self._queue and self.busy < self.limits.workers:
            group, rows = self._next_group()
            if not group:
                continue
            if rows <= self._inline_rows and monotonic() >= self._threads_until:
                self._run_inline(group, rows)
            else:
                self._run_on_thread(group, rows)
        if self.queued_rows:
            self._set_alarm(min([c.deadline for c in self._queue if not c.done]))

    def _next_group(self) -> tuple[list[Call], int]:
        """The longest prefix of the queue that may be one model call; what is cancelled or late falls out."""
        queue, most, variable = self._queue, self._most_rows, self._variable
        merge = self.live.divisible
        now = monotonic()
        group: list[Call] = []
        rows = 0
        while queue:
            call = queue[0]
            if call.done:
                queue.popleft()
                self._gone -= 1
                continue
            n = call.rows.n
            late = now >= call.deadline
            if group and not late and (not merge or rows + n > most or call.kind != group[0].kind):
                break
            queue.popleft()
            call.waits_in = None
            self.queued_rows -= n
            self._queued_bytes -= call.size
            if variable and not group and n:
                most = self._rows_of(sum([a.nbytes for a in call.rows.columns.values()]) // n)
            if late:
                self._fail([call], Late("expired while it waited; nothing was computed"))
            else:
                group.append(call)
                rows += n
        return group, rows

    def _rows_of(self, nbytes: int) -> int:
        """How many rows of so many bytes may be one call."""
        return min(self.limits.max_rows, max(1, self.limits.max_bytes // max(1, nbytes)))

    def _run_inline(self, group: list[Call], rows: int) -> None:
        started = monotonic()
        try:
            result, gathered = self._predict(group)
        except Exception as error:
            log.exception("the path itself failed")
            self._fail(group, error)
            return
        finished = monotonic()
        self._mind(finished - started, finished)
        self._deliver(group, rows, result, started, gathered, finished)

    def _mind(self, seconds: float, now: float) -> None:
        """Calls that hold up the event loop for longer than they may, and not just once, go to threads for a while."""
        most = self.limits.inline_seconds
        self._inline_seconds += 0.1 * (min(seconds, 10 * most) - self._inline_seconds)
        if self._inline_seconds > 2 * most:
            self._inline_seconds = 0.0
            self._threads_until = now + THREADS_SECONDS

    def _run_on_thread(self, group: list[Call], rows: int) -> None:
        started = monotonic()
        self.busy += 1
        self._running_until = max(self._running_until, started + self.profile.cost(rows) * self._pace)
        self._running.update(group)
        self._set_alarm(min([c.deadline for c in group]))
        self._workers.submit(lambda: self._work(group, rows, started))

    def _work(self, group: list[Call], rows: int, started: float) -> None:
        outcome: tuple[Result, float] | Exception
        try:
            outcome = self._predict(group)
        except Exception as error:
            # A defect of ours must reach its callers, not die with the thread.
            log.exception("the path itself failed")
            outcome = error
        finished = monotonic()
        with contextlib.suppress(RuntimeError):  # the loop was closed: the process is ending and nobody waits
            self._loop.call_soon_threadsafe(self._finish, group, rows, outcome, started, finished)

    def _predict(self, group: list[Call]) -> tuple[Result, float]:
        """The result of a group, and the moment at which its rows were gathered."""
        rows = group[0].rows if len(group) == 1 else Rows.concat([c.rows for c in group])
        gathered = monotonic()
        return self.live.predict(rows, max([c.deadline for c in group])), gathered

    def _finish(
        self,
        group: list[Call],
        rows: int,
        outcome: tuple[Result, float] | Exception,
        started: float,
        finished: float,
    ) -> None:
        self.busy -= 1
        self._running.difference_update(group)
        if isinstance(outcome, Exception):
            self._fail(group, outcome)
        else:
            self._deliver(group, rows, outcome[0], started, outcome[1], finished)
        if self._queue and not self._scheduled:
            self._flush()

    def _deliver(
        self, group: list[Call], rows: int, result: Result, started: float, gathered: float, finished: float
    ) -> None:
        start = 0
        now = monotonic()
        for call in group:
            stop = start + call.rows.n
            if not call.done:
                call.done = True
                call.started = started
                call.finished = finished
                if now >= call.deadline:
                    self._tell(call, Late("computed, but not before its deadline"))
                else:
                    try:
                        call.answered(result, start, stop)
                    except Exception as error:
                        log.exception("an answer could not be given")
                        self._tell(call, _shown(error))
            start = stop
        self._pace += 0.05 * ((finished - started) / max(1e-9, self.profile.cost(rows)) - self._pace)
        if result.problems:
            rows -= len({p.row for p in result.problems})
            if self.on_model_failure and any(p.code == "model_failed" for p in result.problems):
                self.on_model_failure()
        self.counters.executed(rows, gathered - started, finished - gathered, monotonic() - now, len(group))

    def _fail(self, calls: list[Call], error: Exception) -> None:
        for call in calls:
            if not call.done:
                call.done = True
                self._tell(call, _shown(error))

    def _tell(self, call: Call, error: TidemillError) -> None:
        try:
            call.failed(error)
        except Exception:
            log.exception("an error could not be told")

    # -- deadlines and the end -----------------------------------------------------------------------------

    def _set_alarm(self, deadline: float) -> None:
        if deadline >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = deadline
        # Loops count in milliseconds: one more, and the alarm never rings before its time.
        self._alarm = self._loop.call_later(max(0.0, deadline - monotonic()) + 0.001, self._expire)

    def _expire(self) -> None:
        """Answer late callers at their deadline, whatever a thread still does; it keeps its place until it returns."""
        self._alarm = None
        self._alarm_at = math.inf
        now = monotonic()
        late = [c for c in (*self._running, *self._queue) if not c.done and c.deadline <= now]
        for call in late:
            if call.waits_in is not None:
                self.forget(call)
        self._fail(late, Late("not answered before its deadline"))
        ahead = [c.deadline for c in (*self._running, *self._queue) if not c.done]
        if ahead:
            self._set_alarm(min(ahead))

    def close(self) -> None:
        """Refuse new calls and fail what still waits. Threads in a model call are left to return by themselves."""
        self._accepting = False
        if self._alarm is not None:
            self._alarm.cancel()
        waiting = [*self._queue, *self._running]
        self._queue.clear()
        self.queued_rows = self._queued_bytes = self._gone = 0
        self._fail(waiting, Unavailable("the server stopped before this was answered", reason="stopped"))
        self._workers.close()


def _shown(error: Exception) -> TidemillError:
    return error if isinstance(error, TidemillError) else TidemillError(f"internal error: {type(error).__name__}")
