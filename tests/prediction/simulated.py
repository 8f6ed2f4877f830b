"""An endpoint in simulated time: the real queue, admission and pace between arrivals and workers that only count."""

import heapq
from collections.abc import Callable, Iterable

import numpy as np

from tests.prediction.waiting import Waiting
from tidemill.prediction.admission import Admission, Load
from tidemill.prediction.batched import CALL_SHARE
from tidemill.prediction.call import Call
from tidemill.prediction.limits import BatchLimits
from tidemill.prediction.pace import Pace, RowLimit
from tidemill.prediction.profile import Profile
from tidemill.prediction.queue import Queue

SLO = 0.1
TIMEOUT = 1.0


class Simulated:
    """`seconds(now, rows)` is what a model call takes. `outcomes` are (arrived, priority, latency), None if refused."""

    def __init__(
        self, profile: Profile, seconds: Callable[[float, int], float], *, workers: int, merges: bool, most: int = 1024
    ) -> None:
        limits = BatchLimits(max_rows=most)
        self.pace = Pace(profile)
        self.limit = RowLimit(profile, CALL_SHARE * SLO, most)
        self.queue = Queue(3, 2, lambda call: self.limit.rows, merges=merges)
        self.admission = Admission(limits, self.pace, SLO, merges=merges)
        self.workers = workers
        self.outcomes: list[tuple[float, int, float | None]] = []
        self._seconds = seconds
        self._running: list[tuple[float, float, int, float, list[Waiting]]] = []  # ends, due, order, began, calls
        self._typical = 0.0

    def play(self, arrivals: Iterable[tuple[float, int]]) -> None:
        """Moments, ascending, and priorities, of calls of one row."""
        for now, priority in arrivals:
            while self._running and self._running[0][0] <= now:
                self._end()
            self._arrive(Waiting(1, priority, deadline=now + TIMEOUT, queued=now), now)
        while self._running:
            self._end()

    def _arrive(self, call: Waiting, now: float) -> None:
        busy = [max(0.0, due - now) for _, due, *_ in self._running]
        load = Load(busy, self.workers, self.limit.rows, self._typical, 1.0)
        displaced: list[Call] = []
        reason = self.admission.refusal(call, self.queue, load, now)
        if reason:
            displaced = self.admission.displaced(call, self.queue, load, now)
            if not displaced:
                self.admission.told(reason, call, self.queue, load, now)
                self.outcomes.append((now, call.priority, None))
                return
        for one in displaced:
            one.done = True
            self.queue.forget(one)
            self.outcomes.append((one.queued, one.priority, None))
        self.queue.push(call)
        self._begin(now)

    def _begin(self, now: float) -> None:
        while self.queue.count and len(self._running) < self.workers:
            group, rows, late = self.queue.take(now)
            self.outcomes += [(call.queued, call.priority, None) for call in late]
            if group:
                due = now + self.pace.expected(rows)
                order = len(self.outcomes)
                heapq.heappush(self._running, (now + self._seconds(now, rows), due, order, now, group))

    def _end(self) -> None:
        now, _, _, began, group = heapq.heappop(self._running)
        self.pace.took(len(group), now - began)
        self.limit.took(len(group), now - began)
        self._typical += 0.2 * (len(group) - self._typical)
        if group[0].priority <= 2:
            self.admission.answered(now - group[0].queued)
        for call in group:
            late = now > call.deadline
            self.outcomes.append((call.queued, call.priority, None if late else now - call.queued))
        self._begin(now)

    def latencies(self, begin: float, end: float, priority: int | None = None) -> tuple[np.ndarray, int]:
        """Of those that arrived between the moments: seconds of the answered ones, and how many were not."""
        found = [o for o in self.outcomes if begin <= o[0] < end and priority in (None, o[1])]
        return np.array([took for *_, took in found if took is not None]), sum(took is None for *_, took in found)


def poisson(rate: float, begin: float, end: float, seed: int) -> list[float]:
    """Arrivals of a Poisson process between two moments."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int((end - begin) * rate * 1.5) + 50)
    moments = begin + np.cumsum(gaps)
    return moments[moments < end].tolist()
