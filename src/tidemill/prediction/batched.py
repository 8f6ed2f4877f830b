"""Batched(Live): calls that wait together are answered together; admission, deadlines and cancellation.

Work-conserving, no timer but the deadlines': calls appended in one turn of the event loop form one model call. It
runs inline while that is expected to be short, else on a thread, and what arrives meanwhile gathers. Every method
belongs to the event loop's thread; only `_work` runs elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tidemill.errors import Cancelled, Late, Overloaded, TidemillError, Unavailable
from tidemill.prediction.live import Live
from tidemill.prediction.profile import Profile, measure
from tidemill.prediction.result import Result
from tidemill.rows import Rows

__all__ = ["BatchLimits", "Batched", "Call"]

Answered = Callable[[Result, int, int], None]
Failed = Callable[[TidemillError], None]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`max_rows` and `max_bytes` of one merged model call; `max_queue_rows` waiting; `inline_seconds` under which a
    call runs on the event loop; `workers` calls at a time on threads.
    """

    max_rows: int = 1024
    max_bytes: int = 64 << 20
    max_queue_rows: int = 65_536
    inline_seconds: float = 0.0003
    workers: int = 1


class Call:
    """One caller's rows on their way. Exactly one of `answered(result, start, stop)` and `failed(error)` is called,
    once, on the event loop, unless the call is cancelled: then neither is.

    `deadline` is a loop.time() moment. `result` may be a merged one: rows start to stop are this caller's.
    `queued` and `started` (loop.time()) tell how long it waited.
    """

    __slots__ = ("answered", "deadline", "done", "failed", "kind", "queued", "rows", "started")

    def __init__(self, rows: Rows, deadline: float, answered: Answered, failed: Failed) -> None:
        self.rows = rows
        self.deadline = deadline
        self.answered = answered
        self.failed = failed
        self.done = False
        self.queued = 0.0
        self.started = 0.0
        self.kind: object = None

    def cancel(self) -> None:
        """The caller left: if the work has not begun it never does; if it has, its answer is dropped."""
        self.done = True


class Batched:
    """Answers calls through one Live, merging what waits together (unless rows depend on each other)."""

    def __init__(self, live: Live, profile: Profile, limits: BatchLimits, loop: asyncio.AbstractEventLoop) -> None:
        self.live = live
        self.profile = profile
        self.limits = limits
        self.busy = 0  # threads in a model call, also those whose callers have given up
        self.queued_rows = 0
        self._running_until = 0.0
        self._pace = 1.0  # measured seconds of recent calls ÷ those the profile expected
        self._loop = loop
        self._queue: deque[Call] = deque()
        self._running: set[Call] = set()
        self._scheduled = False
        self._accepting = True
        self._alarm: asyncio.TimerHandle | None = None
        self._variable = [i.name for i in live.package.manifest.inputs if -1 in i.shape[1:]]
        self._inline_rows = (
            profile.rows_within(limits.inline_seconds) if profile.cost(1) <= limits.inline_seconds else 0
        )
        self._row_bytes = max(1, sum(_row_bytes(i.shape, i.type.size) for i in live.package.manifest.inputs))
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix=f"model-{live.package.name}")

    @property
    def idle(self) -> bool:
        """Nothing waits and no thread is in a model call."""
        return not self._queue and not self.busy

    # -- admission -----------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Queue a call. Raises Overloaded or Unavailable (nothing was begun), Late if its deadline has passed."""
        now = self._loop.time()
        rows = call.rows.n
        if not self._accepting:
            raise Unavailable("draining: this replica takes no more work", retry_after=1.0)
        if now >= call.deadline:
            raise Late("the deadline passed before the request was read")
        if self._queue or self.busy:
            waiting = self._waiting(now)
            if self.queued_rows + rows > self.limits.max_queue_rows and self._queue:
                raise Overloaded(
                    f"the queue is full: {self.queued_rows} rows wait, the limit is {self.limits.max_queue_rows}",
                    retry_after=waiting,
                )
            cost = self.profile.cost(rows) * self._pace
            if now + waiting + cost > call.deadline:
                raise Overloaded(
                    f"about {waiting * 1e3:.0f} ms of work wait and this call takes {cost * 1e3:.0f} ms; "
                    f"its deadline is in {(call.deadline - now) * 1e3:.0f} ms",
                    retry_after=waiting,
                )
        call.queued = now
        if self._variable:
            call.kind = tuple(call.rows.columns[n].shape[1:] for n in self._variable)
        self._queue.append(call)
        self.queued_rows += rows
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        if self.busy:
            self._set_alarm(call.deadline)

    def _waiting(self, now: float) -> float:
        """Expected seconds until a call appended now could begin."""
        size = min(self.limits.max_rows, max(1, self.queued_rows))
        calls = self.queued_rows / size
        queued = calls * self.profile.cost(size) * self._pace / self.limits.workers
        running = max(0.0, self._running_until - now) if self.busy >= self.limits.workers else 0.0
        return running + queued

    # -- the work ------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._scheduled = False
        while self._queue and self.busy < self.limits.workers:
            group, rows = self._next_group()
            if not group:
                continue
            if rows <= self._inline_rows and not self._slowed():
                self._run_inline(group, rows)
            else:
                self._run_on_thread(group, rows)
        if self._queue:
            self._set_alarm(min(c.deadline for c in self._queue))

    def _slowed(self) -> bool:
        """The model got so much slower than its profile that the event loop must not wait for it."""
        return self._pace > 4.0

    def _next_group(self) -> tuple[list[Call], int]:
        """The longest prefix of the queue that may be one model call; what is cancelled or late falls out."""
        queue, limits = self._queue, self.limits
        most = min(limits.max_rows, max(1, limits.max_bytes // self._row_bytes))
        merge = self.live.divisible
        now = self._loop.time()
        group: list[Call] = []
        rows = 0
        while queue:
            call = queue[0]
            n = call.rows.n
            if not call.done and now < call.deadline:
                if group and (not merge or rows + n > most or call.kind != group[0].kind):
                    break
                group.append(call)
                rows += n
            queue.popleft()
            self.queued_rows -= n
            if not call.done and now >= call.deadline:
                call.done = True
                call.failed(Late("expired while it waited; nothing was computed"))
        return group, rows

    def _run_inline(self, group: list[Call], rows: int) -> None:
        started = self._loop.time()
        result = self._predict(group)
        finished = self._loop.time()
        self._learn(rows, finished - started)
        self._deliver(group, result, started)

    def _run_on_thread(self, group: list[Call], rows: int) -> None:
        started = self._loop.time()
        self.busy += 1
        self._running_until = max(self._running_until, started + self.profile.cost(rows) * self._pace)
        self._running.update(group)
        self._set_alarm(min(c.deadline for c in group))
        self._threads.submit(self._work, group, rows, started)

    def _work(self, group: list[Call], rows: int, started: float) -> None:
        try:
            outcome: Result | Exception = self._predict(group)
        except Exception as error:  # noqa: BLE001 - a defect of ours must reach its callers, not die with the thread
            outcome = error
        seconds = self._loop.time() - started
        with contextlib.suppress(RuntimeError):  # the loop was closed: the process is ending and nobody waits
            self._loop.call_soon_threadsafe(self._finish, group, rows, outcome, started, seconds)

    def _predict(self, group: list[Call]) -> Result:
        rows = group[0].rows if len(group) == 1 else Rows.concat([c.rows for c in group])
        latest = max([c.deadline for c in group])
        return self.live.predict(rows, math.inf if latest == math.inf else latest)

    def _finish(
        self, group: list[Call], rows: int, outcome: Result | Exception, started: float, seconds: float
    ) -> None:
        self.busy -= 1
        self._running.difference_update(group)
        if isinstance(outcome, Result):
            self._learn(rows, seconds)
            self._deliver(group, outcome, started)
        else:
            self._fail(group, outcome)
        if self._queue and not self._scheduled:
            self._flush()

    def _deliver(self, group: list[Call], result: Result, started: float) -> None:
        start = 0
        now = self._loop.time()
        for call in group:
            stop = start + call.rows.n
            if not call.done:
                call.done = True
                call.started = started
                if now >= call.deadline:
                    call.failed(Late("computed, but not before its deadline"))
                else:
                    call.answered(result, start, stop)
            start = stop

    def _fail(self, group: list[Call], error: Exception) -> None:
        for call in group:
            if not call.done:
                call.done = True
                call.failed(error if isinstance(error, TidemillError) else TidemillError(f"internal error: {error!r}"))

    def _learn(self, rows: int, seconds: float) -> None:
        self._pace += 0.05 * (seconds / max(1e-9, self.profile.cost(rows)) - self._pace)

    # -- deadlines and the end -----------------------------------------------------------------------------

    def _set_alarm(self, deadline: float) -> None:
        alarm = self._alarm
        if deadline == math.inf or (alarm is not None and alarm.when() <= deadline):
            return
        if alarm is not None:
            alarm.cancel()
        self._alarm = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        """Answer late callers at their deadline, whatever a thread still does; it keeps its place until it returns."""
        self._alarm = None
        now = self._loop.time()
        for call in [c for c in (*self._running, *self._queue) if not c.done and c.deadline <= now]:
            call.done = True
            call.failed(Late("not answered before its deadline"))
        ahead = [c.deadline for c in (*self._running, *self._queue) if not c.done]
        if ahead:
            self._set_alarm(min(ahead))

    def stop_accepting(self) -> None:
        """Refuse new calls; those taken are still answered."""
        self._accepting = False

    def close(self) -> None:
        """Fail what still waits. Threads in a model call are left to return by themselves."""
        self._accepting = False
        if self._alarm is not None:
            self._alarm.cancel()
        self._fail([*self._queue, *self._running], Cancelled("the server stopped"))
        self._queue.clear()
        self.queued_rows = 0
        self._threads.shutdown(wait=False, cancel_futures=True)


def _row_bytes(shape: tuple[int, ...], size: int) -> int:
    return math.prod(abs(d) for d in shape[1:]) * (size or 32)


def open_batched(live: Live, limits: BatchLimits, loop: asyncio.AbstractEventLoop) -> Batched:
    """Measure the model (which warms it up) and put merging in front of it."""
    return Batched(live, measure(live), limits, loop)
