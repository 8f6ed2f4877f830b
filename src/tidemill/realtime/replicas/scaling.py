"""The live loop of auto-scaling: looks at what all replicas counted, asks the autoscaler, and has replicas started or
let go. Each decision is a line of the log and a count.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from time import monotonic

from tidemill.observability import families
from tidemill.observability.families import SECONDS
from tidemill.observability.reading import Totals, total
from tidemill.observability.recorder import Recorder
from tidemill.realtime.replicas.autoscaler import Observation, State, decide
from tidemill.realtime.replicas.child import Phase
from tidemill.realtime.replicas.fleet import Fleet

__all__ = ["Counted", "Scaling"]

log = logging.getLogger(__name__)

# Seconds between looks.
LOOK = 0.5
REFUSED = ("overloaded", "unavailable")


@dataclass(frozen=True, slots=True)
class Counted:
    """What all replicas had counted at a moment: requests that ended, those of them that were refused, calls of the
    model as answered requests saw them (number and seconds), and how long these waited (counts by SECONDS).
    """

    requests: float = 0.0
    refused: float = 0.0
    calls: float = 0.0
    call_seconds: float = 0.0
    waits: tuple[float, ...] = (0.0,) * (len(SECONDS) + 1)

    @classmethod
    def of(cls, totals: Totals) -> Counted:
        """From the counters of all models together."""
        requests = refused = calls = call_seconds = 0.0
        waits = [0.0] * (len(SECONDS) + 1)
        for one in totals.of(families.REQUESTS.name):
            requests += one.values[0]
            if one.labels["outcome"] in REFUSED:
                refused += one.values[0]
        for one in totals.of(families.STAGE_SECONDS.name):
            if one.labels["stage"] == "compute":
                calls += sum(one.values[:-1])
                call_seconds += one.values[-1]
            elif one.labels["stage"] == "queue":
                waits = [a + b for a, b in zip(waits, one.values, strict=False)]
        return cls(requests, refused, calls, call_seconds, tuple(waits))

    def since(self, before: Counted) -> Counted:
        """What was counted after `before`."""
        return Counted(
            self.requests - before.requests,
            self.refused - before.refused,
            self.calls - before.calls,
            self.call_seconds - before.call_seconds,
            tuple(a - b for a, b in zip(self.waits, before.waits, strict=True)),
        )

    @property
    def service(self) -> float | None:
        """Mean seconds of a call."""
        return self.call_seconds / self.calls if self.calls > 0 else None

    @property
    def waiting(self) -> float | None:
        """Seconds that 99 % waited at most: the upper bound of the histogram's part."""
        summed = list(accumulate(self.waits))
        if summed[-1] <= 0:
            return None
        part = bisect_left(summed, 0.99 * summed[-1])
        return SECONDS[min(part, len(SECONDS) - 1)]


class Scaling:
    """Has as many replicas as load asks for."""

    def __init__(self, fleet: Fleet, counters: str, cores: float, recorder: Recorder) -> None:
        """`counters` is where the replicas count; `cores` they have together."""
        self._fleet = fleet
        self._counters = counters
        self._cores = cores
        self._recorder = recorder
        self._state = State()
        self._before: tuple[float, Counted, float] | None = None
        self._cpu: dict[int, float] = {}

    async def run(self) -> None:
        """Look and decide until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            fleet = self._fleet
            if fleet.stopping or not fleet.of(Phase.READY) or fleet.policy.most == fleet.policy.minimum:
                continue
            # Reading the files of many replicas takes longer than probes and messages should wait.
            counted = Counted.of(await asyncio.to_thread(total, self._counters))
            seen = self._observe(counted)
            policy = fleet.policy
            self._state, decision = decide(
                policy.autoscaling, self._state, seen, least=policy.minimum, most=policy.most
            )
            if decision.replicas != fleet.wanted:
                self._recorder.values(families.SCALINGS, cause=decision.cause)[0] += 1
                log.info(
                    "scaling",
                    extra={
                        "replicas": decision.replicas,
                        "before": fleet.wanted,
                        "cause": decision.cause,
                        "reason": decision.reason,
                    },
                )
                fleet.want(decision.replicas)

    def _observe(self, counted: Counted) -> Observation:
        fleet = self._fleet
        ready = fleet.of(Phase.READY)
        now = monotonic()
        in_flight = sum(child.report.in_flight for child in ready)
        told = [child.ready for child in ready if child.ready is not None]
        arrivals = completed = service = waiting = cpu = None
        if self._before is not None:
            then, before, had = self._before
            seconds, new = now - then, counted.since(before)
            # Requests are counted when they end; those that have come since and wait are to be added.
            arrivals = max(0.0, new.requests + in_flight - had) / seconds
            completed = (new.requests - new.refused) / seconds
            service, waiting = new.service, new.waiting
            used = [child.report.cpu_seconds - self._cpu.get(child.number, child.report.cpu_seconds) for child in ready]
            cpu = max(0.0, sum(used)) / seconds
        self._before = (now, counted, in_flight)
        self._cpu = {child.number: child.report.cpu_seconds for child in ready}
        memory, free = fleet.room()
        return Observation(
            now=now,
            ready=len(ready),
            starting=len(fleet.of(Phase.STARTING)),
            concurrency=in_flight,
            target=min([one.concurrency for one in told], default=1.0),
            arrivals=arrivals,
            completed=completed,
            service=service,
            waiting=waiting,
            slo=min([one.slo_seconds for one in told if one.slo_seconds > 0], default=None),
            startup=fleet.start_seconds,
            cpu=cpu,
            cores=self._cores,
            memory=memory,
            free=free,
        )
