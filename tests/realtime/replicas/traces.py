"""Load over time against a simulated service, with the autoscaler as the only thing under test."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from tidemill.realtime.replicas.autoscaler import AutoscalingOptions, Decision, Observation, State, decide

STEP = 0.02


@dataclass(kw_only=True)
class Service:
    """Replicas that run `slots` requests at once, `service` seconds each, `cpu` cores for each that runs.

    Requests wait in one queue; one that would wait longer than `patience` is refused.
    """

    slots: int = 4
    service: float = 0.02
    startup: float = 2.0
    slo: float | None = 0.1
    patience: float = 0.3
    cpu: float = 0.0
    cores: float | None = None
    memory: int | None = None
    free: int | None = None


@dataclass
class Second:
    """What one second looked like."""

    at: float
    ready: int
    starting: int
    wanted: int
    decision: Decision
    waiting: float
    refused: float


@dataclass
class Replay:
    """A run of the simulation, second by second."""

    seconds: list[Second] = field(default_factory=list)

    def wanted(self, since: float = 0.0, until: float = math.inf) -> list[int]:
        return [one.wanted for one in self.seconds if since <= one.at < until]

    def changes(self, since: float = 0.0, until: float = math.inf) -> list[int]:
        """The counts in turn, each once."""
        return [count for count, _ in groupby(self.wanted(since, until))]

    def turns(self, since: float = 0.0, until: float = math.inf) -> int:
        """How often the count went from growing to shrinking or back."""
        counts = self.changes(since, until)
        ups = [b > a for a, b in pairwise(counts)]
        return len(list(groupby(ups))) - 1 if ups else 0

    def causes(self) -> set[str]:
        return {one.decision.cause for one in self.seconds}

    def refused(self, since: float = 0.0, until: float = math.inf) -> float:
        return sum(one.refused for one in self.seconds if since <= one.at < until)


def replay(
    rate: Callable[[float], float],
    seconds: float,
    service: Service,
    options: AutoscalingOptions | None = None,
    *,
    least: int = 1,
    most: int = 16,
    look: float = 1.0,
    kill: Callable[[float], int] = lambda at: 0,
) -> Replay:
    """Requests come at `rate(t)` a second, at random (Poisson, always the same); the autoscaler looks every `look`.

    `kill(t)` replicas are lost in the second that begins at t.
    """
    options = options or AutoscalingOptions()
    chance = random.Random(1)
    state, replay = State(), Replay()
    ready, starting, inside = least, [], 0.0
    for looked in _times(seconds, look):
        came = done = refused = held = used = worst = 0.0
        lost = min(kill(looked), ready)
        inside *= 1 - lost / ready if ready else 1
        ready -= lost
        for i in range(round(look / STEP)):
            now = looked + i * STEP
            ready += sum(at <= now for at in starting)
            starting = [at for at in starting if at > now]
            slots = ready * service.slots
            wait = max(0.0, inside - slots) / slots * service.service if slots else math.inf
            arrivals = _poisson(chance, rate(now) * STEP)
            taken = arrivals if wait <= service.patience else 0
            running = min(inside, slots)
            finished = min(inside, running / service.service * STEP)
            inside += taken - finished
            came, done, refused = came + arrivals, done + finished, refused + arrivals - taken
            held, used = held + inside * STEP, used + running * service.cpu * STEP
            worst = max(worst, min(wait, service.patience))
        free = None
        if service.memory is not None and service.free is not None:
            free = service.free - (ready - least) * service.memory
        seen = Observation(
            now=looked + look,
            ready=ready,
            starting=len(starting),
            concurrency=held / look,
            target=float(service.slots),
            arrivals=came / look,
            completed=done / look,
            service=service.service if done else None,
            waiting=worst if done else None,
            slo=service.slo,
            startup=service.startup,
            cpu=used / look if service.cores else None,
            cores=service.cores,
            memory=service.memory,
            free=free,
        )
        state, decision = decide(options, state, seen, least=least, most=most)
        wanted = decision.replicas
        starting += [looked + look + service.startup] * max(0, wanted - ready - len(starting))
        while starting and ready + len(starting) > wanted:
            starting.pop()
        ready = min(ready, wanted)
        replay.seconds.append(Second(looked + look, ready, len(starting), wanted, decision, worst, refused))
    return replay


def _times(seconds: float, look: float) -> Iterator[float]:
    return (i * look for i in range(round(seconds / look)))


def _poisson(chance: random.Random, mean: float) -> int:
    """By Knuth's product; the means here are small."""
    if mean > 30:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    bound, count, product = math.exp(-mean), 0, chance.random()
    while product > bound:
        count, product = count + 1, product * chance.random()
    return count
