"""Batched(Live): calls that wait together are answered together; admission, deadlines and cancellation.

Work-conserving, no timer but the deadlines' unless asked for: calls appended in one turn of the event loop form one
model call. It runs inline while that is expected to be short, else on a thread, and what arrives meanwhile gathers.
What is next and who is taken is decided in `queue.py` and `admission.py`. Every method belongs to the event loop's
thread; only `_work` runs elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable
from time import monotonic, thread_time
from typing import Any

from tidemill.errors import Late, Overloaded, TidemillError, Unavailable
from tidemill.observability.counters import Counters
from tidemill.prediction.admission import PROMISED, Admission, Load
from tidemill.prediction.budget import LENT_AFTER, Budget, Held, Share
from tidemill.prediction.call import Call
from tidemill.prediction.limits import BatchLimits
from tidemill.prediction.live import Live
from tidemill.prediction.pace import Pace, RowLimit
from tidemill.prediction.profile import Profile
from tidemill.prediction.queue import Queue
from tidemill.prediction.result import Result
from tidemill.prediction.running import Running, Threads
from tidemill.prediction.workers import Workers
from tidemill.rows import Rows
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["BatchLimits", "Batched", "Budget", "Call"]

log = logging.getLogger(__name__)

# Inline calls that have become too slow go to threads for so many seconds.
THREADS_SECONDS = 1.0
# Of the SLO, what one call may take: a caller may have to wait for the whole of the one before it.
CALL_SHARE = PROMISED / 2
# A model whose calls spend less of their time than this on a core waits for something; it needs no core of the budget.
COMPUTES = 0.3


class Batched:
    """Answers calls through one Live, merging what waits together (unless rows depend on each other)."""

    def __init__(
        self,
        live: Live,
        profile: Profile,
        limits: BatchLimits,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        budget: Budget | None = None,
        slo: float | None = None,
    ) -> None:
        """`budget` is the process's, shared by all of its endpoints; without one, all cores are this one's. `slo` is
        seconds in place of the package's p99.
        """
        manifest = live.package.manifest
        slo = slo or manifest.slo.p99_ms / 1e3
        self.live = live
        self.profile = profile
        self.limits = limits
        self.counters = counters
        self.on_model_failure: Callable[[], None] | None = None  # told of each call in which the model raised
        self._budget = budget or Budget(cpu_budget())
        self.workers = limits.workers or (self._budget.cores if live.runtime.releases_gil else 1)
        self._share = Share(manifest.runtime.threads, self._flush)
        self._computes = 1.0  # share of a core that its calls lately used
        self.pace = Pace(profile)
        self.row_limit = RowLimit(profile, CALL_SHARE * slo, limits.max_rows)
        self._admission = Admission(limits, self.pace, slo, merges=live.divisible)
        self._typical = 0.0  # rows of recent calls on threads
        self._variable = [i.name for i in manifest.inputs if -1 in i.shape[1:]]
        self._row_bytes = sum(i.row_bytes for i in manifest.inputs)
        quick = not live.may_block and profile.cost(1) <= limits.inline_seconds
        self.inline_rows = profile.rows_within(limits.inline_seconds) if quick else 0
        # So little work that admission need not think about it.
        self._free_rows = min(self.inline_rows, limits.max_queue_rows, self.row_limit.rows)
        self._inline_seconds = 0.0  # what calls on the event loop took lately; one outlier counts for little
        self._threads_until = 0.0
        self._queue = Queue(
            limits.priority_levels,
            limits.default_priority,
            self._most_with,
            merges=live.divisible,
            preferred=limits.preferred_rows,
        )
        self._loop = loop
        self.busy = 0  # threads in a model call, also those whose callers have given up
        self._running = Threads(self.workers, limits.hung_after)
        self._workers = Workers(self.workers, f"model-{live.package.name}")
        self._scheduled = False
        self._accepting = True
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._delays = limits.max_delay > 0
        self._hold: asyncio.TimerHandle | None = None
        self._nudge: asyncio.TimerHandle | None = None
        self._learn_light()

    @property
    def queued_rows(self) -> int:
        """Rows of callers that still wait."""
        return self._queue.rows

    @property
    def queued(self) -> int:
        """Callers that still wait."""
        return self._queue.count

    @property
    def idle(self) -> bool:
        """Nothing waits and no thread is in a model call."""
        return not self._queue.count and not self.busy

    @property
    def facts(self) -> dict[str, Any]:
        """Where calls run and what bounds them now, for people: times are seconds."""
        most = self._rows_of(self._row_bytes)
        return {
            "inline_rows": self.inline_rows if monotonic() >= self._threads_until else 0,
            "inline_seconds": self.limits.inline_seconds,
            "workers": self.workers,
            "call_rows": most,
            "call_seconds": self.pace.expected(most),
            "row_seconds": self.pace.expected(1),
            "queued_rows": self._queue.rows,
            "max_queue_rows": self.limits.max_queue_rows,
        }

    def overdue(self, seconds: float) -> bool:
        """Every thread is in a model call, and even the last of them should have returned so long ago."""
        return self._running.overdue(monotonic(), seconds)

    @property
    def stuck_since(self) -> float | None:
        """When the first call that hangs should have returned (`time.monotonic()`); None where none hangs.

        Nobody waits for it any more and it is over its time by `hung_after`: only a new process gets its thread back.
        """
        return min([r.due for r in self._running.hung(monotonic())], default=None)

    # -- admission -----------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Queue a call. Raises Overloaded or Unavailable (nothing was begun), Late if its deadline has passed."""
        now = monotonic()
        queue = self._queue
        if not self._accepting:
            raise Unavailable("the server stopped", retry_after=1.0, reason="stopped")
        if now >= call.deadline:
            raise Late("the deadline passed before the request was read")
        if self._variable:
            call.kind = tuple([call.rows.columns[n].shape[1:] for n in self._variable])
        if self.busy or queue.rows + call.rows.n > self._free_rows:
            self._admit(now, call)
        call.queued = now
        queue.push(call)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        if self.busy:
            self._set_alarm(call.deadline)

    def _admit(self, now: float, call: Call) -> None:
        """Raise for a call that cannot be taken; take others out of the queue where it goes before them."""
        call.size = call.rows.nbytes
        queue, admission = self._queue, self._admission
        if not self._share.waits and admission.is_light(call, queue, self._running.last_due if self.busy else now, now):
            return
        load = self._load(now)
        if not load.workers:
            raise Unavailable("the model does not return from its calls", retry_after=1.0, reason="hung")
        reason = admission.refusal(call, queue, load, now)
        if reason is None:
            return
        displaced = [] if reason == "deadline" else admission.displaced(call, queue, load, now)
        if not displaced:
            raise admission.told(reason, call, queue, load, now)
        wait, _ = admission.expected(call, queue, load)
        text = "the queue is full, and a call of another priority had the better right to this place"
        self._drop(displaced, Overloaded(text, retry_after=wait, reason="displaced"))

    def _load(self, now: float) -> Load:
        busy, workers = self._running.remaining(now)
        slowdown = self._budget.slowdown(self._share, workers)
        return Load(busy, workers, self._rows_of(self._row_bytes), self._typical, slowdown)

    def _most_with(self, call: Call) -> int:
        """How many rows a model call may have that begins with this one."""
        if self._variable and call.rows.n:
            return self._rows_of(sum([a.nbytes for a in call.rows.columns.values()]) // call.rows.n)
        return self._rows_of(self._row_bytes)

    def _rows_of(self, nbytes: int) -> int:
        """How many rows of so many bytes may be one call."""
        return min(self.row_limit.rows, max(1, self.limits.max_bytes // max(1, nbytes)))

    # -- the work ------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Begin as many model calls as may be begun now."""
        self._scheduled = False
        queue = self._queue
        while queue.count and self.busy < self.workers:
            now = monotonic()
            if self._delays and self._waits_for_more(now):
                break
            inline = self.inline_rows if now >= self._threads_until else 0
            held = None
            if queue.rows > inline and self._computes > COMPUTES:
                held = self._budget.take(self._share)
                if held is None:
                    self._nudge = self._nudge or self._loop.call_later(LENT_AFTER, self._reap)
                    break
            group, rows, late = queue.take(now)
            if group and rows > inline:
                self._run_on_thread(group, rows, held)
            else:
                if held is not None:
                    self._budget.give(held, 0.0)
                if group:
                    self._run_inline(group, rows)
            if late:
                self._fail(late, Late("expired while it waited; nothing was computed"))
        if queue.count and (queue.sorted or not self.busy):  # else it was set when they were submitted
            self._set_alarm(queue.soonest)

    def _waits_for_more(self, now: float) -> bool:
        """Whether to wait, as asked for, until more rows have come; the flush is scheduled then."""
        queue, limits = self._queue, self.limits
        wanted = min(limits.preferred_rows, default=self._rows_of(self._row_bytes))
        until = min(queue.oldest + limits.max_delay, queue.soonest - self.pace.expected(queue.rows))
        if queue.rows >= wanted or until <= now:
            return False
        if self._hold is None:
            self._hold = self._loop.call_later(until - now, self._release)
        return True

    def _release(self) -> None:
        self._hold = None
        self._flush()

    def _reap(self) -> None:
        """The budget has let this endpoint wait for a while: look for calls that hold cores and do not come back."""
        self._nudge = None
        self._budget.reap(monotonic())
        if self._share.waits:
            self._nudge = self._loop.call_later(LENT_AFTER, self._reap)

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

    def _run_on_thread(self, group: list[Call], rows: int, held: Held | None) -> None:
        started = monotonic()
        running = Running(group, rows, started, started + self.pace.expected(rows), held)
        if held is not None:
            held.until = running.due
        self._running.add(running)
        self.busy += 1
        self._set_alarm(min([c.deadline for c in group]))
        self._workers.submit(lambda: self._work(running))

    def _work(self, running: Running) -> None:
        outcome: tuple[Result, float] | Exception
        cpu = thread_time()
        try:
            outcome = self._predict(running.calls)
        except Exception as error:
            # A defect of ours must reach its callers, not die with the thread.
            log.exception("the path itself failed")
            outcome = error
        finished, cpu = monotonic(), thread_time() - cpu
        with contextlib.suppress(RuntimeError):  # the loop was closed: the process is ending and nobody waits
            self._loop.call_soon_threadsafe(self._finish, running, outcome, finished, cpu)

    def _predict(self, group: list[Call]) -> tuple[Result, float]:
        """The result of a group, and the moment at which its rows were gathered."""
        rows = group[0].rows if len(group) == 1 else Rows.concat([c.rows for c in group])
        gathered = monotonic()
        return self.live.predict(rows, max([c.deadline for c in group])), gathered

    def _finish(self, running: Running, outcome: tuple[Result, float] | Exception, finished: float, cpu: float) -> None:
        group, rows, started = running.calls, running.rows, running.started
        self._running.remove(running)
        self.busy -= 1
        if isinstance(outcome, Exception):
            self._fail(group, outcome)
        else:
            self._learn(rows, finished - started, cpu)
            self._deliver(group, rows, outcome[0], started, outcome[1], finished)
            if group[0].priority <= self.limits.default_priority:  # a lower one is not promised to be in time
                self._admission.answered(monotonic() - group[0].queued)
        if running.held is not None:
            self._budget.give(running.held, finished - started)
        if self._queue.count and not self._scheduled:
            self._flush()

    def _learn(self, rows: int, seconds: float, cpu: float) -> None:
        self.pace.took(rows, seconds)
        self.row_limit.took(rows, seconds)
        self._free_rows = min(self.inline_rows, self.limits.max_queue_rows, self.row_limit.rows)
        self._learn_light()
        self._typical += 0.2 * (rows - self._typical)
        self._computes += 0.2 * (min(1.0, cpu / max(1e-9, seconds)) - self._computes)

    def _learn_light(self) -> None:
        if self.live.divisible and not self._variable:
            self._admission.learn_light(self._rows_of(self._row_bytes))

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
        if result.problems:
            rows -= len({p.row for p in result.problems})
            if self.on_model_failure and any(p.code == "model_failed" for p in result.problems):
                self.on_model_failure()
        self.counters.executed(rows, gathered - started, finished - gathered, monotonic() - now, len(group))

    def _fail(self, calls: Iterable[Call], error: Exception) -> None:
        for call in calls:
            if not call.done:
                call.done = True
                self._tell(call, _shown(error))

    def _drop(self, waiting: Iterable[Call], error: TidemillError) -> None:
        """These calls wait no longer, and are told why."""
        for call in waiting:
            call.done = True
            self._queue.forget(call)
            self._tell(call, error)

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
        error = Late("not answered before its deadline")
        self._drop(self._queue.expired(now), error)
        self._fail([c for c in self._running.callers if c.deadline <= now], error)
        self._set_alarm(min([self._queue.soonest, *[c.deadline for c in self._running.callers if not c.done]]))

    def close(self) -> None:
        """Refuse new calls and fail what still waits. Threads in a model call are left to return by themselves."""
        self._accepting = False
        for timer in (self._alarm, self._hold, self._nudge):
            if timer is not None:
                timer.cancel()
        self._budget.leave(self._share)
        # Its parts call it back; after this nothing holds the model but who still uses it.
        self._share.wake = _nothing
        waiting = [*self._queue.close(), *self._running.callers]
        self._fail(waiting, Unavailable("the server stopped before this was answered", reason="stopped"))
        self._workers.close()


def _nothing() -> None:
    pass


def _shown(error: Exception) -> TidemillError:
    return error if isinstance(error, TidemillError) else TidemillError(f"internal error: {type(error).__name__}")
