"""How many replicas there should be: a pure function of what was seen, after Knative's pod autoscaler.

Knative's stable and panic windows over concurrency; besides, the headroom that waiting leaves within the SLO, the
time a replica takes to start, and what memory and cores allow. No clock, no I/O: `decide` is replayed over traces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal

import msgspec

from tidemill.config import Config

__all__ = ["AutoscalingOptions", "Cause", "Decision", "Observation", "State", "decide"]

Above0 = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Rate = Annotated[float, msgspec.Meta(gt=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]

# The windows are kept in parts: six in a panic window, but so many in all at most.
PANIC_PARTS = 6
MOST_PARTS = 600

# What fits into fewer replicas must fit with this share to spare, or a load between two counts would swing.
SPARE = 0.1

# Arrivals and completions that differ by more than this share: a backlog grows, or is worked off.
UNEVEN = 0.1

# Waiting, as a share of what it may take, above which no replica is given up; and the most that one look counts for.
TENSE = 0.5
MOST_PRESSURE = 2.0

# A ramp rises alike in all parts of the window: by this factor at most more in one than in another.
STEADY = 4

# Giving up replicas is put off by so many delays at most where it was regretted, until a time of calm: multiples of
# the time within which it is regretted.
MOST_PATIENCE = 16
CALM = 10

# Replicas that use this share of the cores leave none to another.
EXHAUSTED = 0.9

Cause = Literal["steady", "load", "panic", "slo", "ramp", "delay", "idle", "memory", "cores", "rate", "bounds"]


class AutoscalingOptions(Config, frozen=True, kw_only=True):
    """When replicas are added and removed. Times are seconds.

    A replica is meant to hold `utilisation` of `target_concurrency` requests (by default of what was measured to
    stay within its SLO), averaged over `stable_window`. If the mean over `panic_window` asks for `panic_threshold`
    times the replicas that are ready, that mean decides, and none is removed until a stable window later. Waiting may
    use `slo_headroom` of what calls leave of the SLO before a replica is added for it. One decision multiplies the
    ready replicas by `max_up_rate` at most and divides all by `max_down_rate` at most, once fewer have been enough for
    `down_delay`. `memory_reserve` bytes of the machine are left free.
    """

    target_concurrency: Above0 | None = None
    utilisation: Share = 0.7
    stable_window: Above0 = 60.0
    panic_window: Above0 = 3.0
    panic_threshold: Rate = 2.0
    slo_headroom: Share = 0.5
    max_up_rate: Rate = 10.0
    max_down_rate: Rate = 2.0
    down_delay: Seconds = 30.0
    memory_reserve: Annotated[int, msgspec.Meta(ge=0)] = 256 << 20

    def problems(self) -> list[str]:
        """What fields say against each other."""
        if self.panic_window > self.stable_window:
            return [f"panic_window: must be at most stable_window ({self.stable_window:g}), got {self.panic_window:g}"]
        return []


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of all replicas since the last look; finite, none negative. Rates are a second.

    now         seconds of a clock that never goes back
    ready       replicas that can answer; those that are on their way out count nowhere
    starting    replicas that were started and cannot answer yet
    concurrency mean number of requests in the system, waiting or running
    target      requests that one replica was measured to hold within its SLO; used without `target_concurrency`
    arrivals    requests that came, the refused ones too
    completed   requests that were answered, refusals not counted
    service     mean seconds in a model call of what was answered; None: nothing was
    waiting     seconds that nearly all (p99) of what was answered waited for its call
    slo         seconds within which nearly all should be answered
    startup     seconds that the last replica took from its start until it could answer
    cpu         cores in use by the ready replicas
    cores       cores that replicas may use
    memory      bytes of the largest replica
    free        bytes that are free on the machine, or in the budget
    """

    now: float
    ready: int
    starting: int
    concurrency: float
    target: float = 1.0
    arrivals: float | None = None
    completed: float | None = None
    service: float | None = None
    waiting: float | None = None
    slo: float | None = None
    startup: float | None = None
    cpu: float | None = None
    cores: float | None = None
    memory: int | None = None
    free: int | None = None

    @property
    def settled(self) -> bool:
        """Whether as much is answered as comes, as far as is known: no backlog grows or is worked off."""
        if self.arrivals is None or self.completed is None:
            return True
        return abs(self.arrivals - self.completed) <= UNEVEN * self.arrivals

    def demand(self, settled: bool) -> float:
        """Requests that would be in the system if replicas were enough.

        That is what is in it (Knative's measure) where matters are settled, now and at the look before. A backlog
        says how long there were too few replicas, and not how few: then it is what Little's law makes of the arrivals.
        """
        if self.arrivals is None or self.service is None or (settled and self.settled):
            return self.concurrency
        return self.arrivals * self.service


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the window: when it began, the seconds it stands for, their mean demand, the replicas that waiting
    asked for in the mean, and the most cores that a replica used.
    """

    began: float
    seconds: float
    demand: float
    asked: float
    cpu: float

    def and_(self, other: Part) -> Part:
        """Both as one piece."""
        total = self.seconds + other.seconds
        share = other.seconds / total if total else 0.0
        return Part(
            self.began,
            total,
            self.demand + (other.demand - self.demand) * share,
            self.asked + (other.asked - self.asked) * share,
            max(self.cpu, other.cpu),
        )


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered between looks: the window, and whether the last was settled; since when there is panic and
    its most replicas; since when fewer replicas are enough and the most of those; the last growth and the last
    giving up, and by how much giving up was put off because it was regretted.
    """

    parts: tuple[Part, ...] = ()
    seen_at: float | None = None
    settled: bool = True
    panic_since: float | None = None
    panic_most: int = 0
    fewer_since: float | None = None
    fewer: int = 0
    grown_at: float | None = None
    shrunk_at: float | None = None
    patience: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be, starting ones included; what decided it, as a label and as a sentence."""

    replicas: int
    cause: Cause
    reason: str


def decide(
    options: AutoscalingOptions, state: State, seen: Observation, *, least: int, most: int
) -> tuple[State, Decision]:
    """The replicas there should be now, from `least` (at least 1) to `most`, and what to remember for the next look.

    `Decision.replicas` is a total: asked again while replicas start, it orders nothing twice. Where it is less than
    there are, replicas that still start are the ones to give up first.
    """
    state = _remember(options, state, seen)
    state, asks = _asks(options, state, seen)
    wanted = max(asks, key=lambda ask: ask.replicas)
    current = seen.ready + seen.starting
    if wanted.replicas > current:
        decided = _grown(options, state, seen, wanted)
        state = _patience_of_growth(options, replace(state, fewer_since=None), decided.replicas > current)
    elif wanted.replicas < current:
        state, decided = _shrunk(options, state, seen, wanted)
    else:
        state = replace(state, fewer_since=None)
        decided = Decision(current, "steady", wanted.reason)
    least = max(1, least)
    bounded = min(max(decided.replicas, least), max(most, least))
    if bounded != decided.replicas:
        edge = "at least" if bounded > decided.replicas else "at most"
        decided = Decision(bounded, "bounds", f"{decided.reason}; {edge} {bounded} are allowed")
    return state, decided


def _remember(options: AutoscalingOptions, state: State, seen: Observation) -> State:
    """The window with this look in it."""
    width = max(options.panic_window / PANIC_PARTS, options.stable_window / MOST_PARTS)
    now = seen.now if state.seen_at is None else max(seen.now, state.seen_at)
    seconds = width if state.seen_at is None else now - state.seen_at
    cpu = 0.0 if seen.cpu is None else seen.cpu / max(1, seen.ready)
    part = Part(now - seconds, seconds, seen.demand(state.settled), _waiting_asks(options, seen), cpu)
    parts = state.parts
    if parts and part.began < parts[-1].began + width:
        parts = (*parts[:-1], parts[-1].and_(part))
    else:
        parts = (*parts, part)
    oldest = now - options.stable_window
    first = next((i for i, one in enumerate(parts) if one.began + one.seconds > oldest), len(parts) - 1)
    return replace(state, parts=parts[first:], seen_at=now, settled=seen.settled)


def _waiting_asks(options: AutoscalingOptions, seen: Observation) -> float:
    """Replicas that waiting asks for: as many more than are ready as it takes more than it may, all that are ready
    while it is tense, else none.

    Calls that alone use up the SLO get no replica for it, since none would help; nor does a backlog that shrinks.
    """
    if seen.waiting is None or seen.slo is None:
        return 0.0
    allowed = (seen.slo - (seen.service or 0.0)) * options.slo_headroom
    if allowed <= 0:
        return 0.0
    pressure = min(seen.waiting / allowed, MOST_PRESSURE)
    shrinks = seen.arrivals is not None and seen.completed is not None and seen.completed > seen.arrivals * (1 + UNEVEN)
    if pressure > 1 and not shrinks:
        return seen.ready * pressure
    return float(seen.ready) if pressure > TENSE else 0.0


def _asks(options: AutoscalingOptions, state: State, seen: Observation) -> tuple[State, list[Decision]]:
    """What each measure asks for, the load first; and the panic begun, kept up or ended."""
    now = state.parts[-1].began + state.parts[-1].seconds
    per_replica = (options.target_concurrency or max(seen.target, 1e-6)) * options.utilisation
    recent = _within(state.parts, now - options.panic_window)
    stable, sudden = _mean_demand(state.parts), _mean_demand(recent)
    asks = [
        Decision(_count(stable / per_replica), "load", f"{stable:.3g} requests at a time, {per_replica:.3g} a replica")
    ]

    by_panic = _count(sudden / per_replica)
    if by_panic >= options.panic_threshold * max(1, seen.ready):
        state = replace(state, panic_since=now, panic_most=max(by_panic, state.panic_most))
    elif state.panic_since is not None and now - state.panic_since >= options.stable_window:
        state = replace(state, panic_since=None, panic_most=0)
    if state.panic_since is not None:
        state = replace(state, panic_most=max(by_panic, state.panic_most))
        reason = f"{sudden:.3g} requests at a time in {options.panic_window:g} s, {per_replica:.3g} a replica"
        asks.append(Decision(state.panic_most, "panic", reason))

    by_waiting = _count(sum(p.asked * p.seconds for p in recent) / (sum(p.seconds for p in recent) or 1.0))
    asks.append(Decision(by_waiting, "slo", "waiting uses up what the model's calls leave of the SLO"))

    rise = _rise(options, state.parts, now)
    if seen.startup is not None and rise > 0:
        ahead = min(seen.startup, options.stable_window)
        latest = _mean_demand(_within(state.parts, now - options.stable_window / 4))
        coming = min(latest + rise * (ahead + options.stable_window / 8), 2 * latest)
        reason = f"{coming:.3g} requests at a time are coming in the {ahead:.3g} s that a replica takes to start"
        asks.append(Decision(_count(coming / per_replica), "ramp", reason))
    return state, asks


def _grown(options: AutoscalingOptions, state: State, seen: Observation, wanted: Decision) -> Decision:
    """More replicas, as many of those wanted as rate, memory and cores allow."""
    current = seen.ready + seen.starting
    rate = Decision(
        math.ceil(options.max_up_rate * max(1, seen.ready)),
        "rate",
        f"{options.max_up_rate:g} times as many at once is the most",
    )
    limits = [rate]
    if seen.memory and seen.free is not None:
        room = seen.free - options.memory_reserve - seen.starting * seen.memory
        fit = current + max(0, room // seen.memory)
        reason = f"{max(0, room) >> 20} MiB are left and a replica takes {seen.memory >> 20}"
        limits.append(Decision(fit, "memory", reason))
    if seen.cores and seen.cpu is not None:
        now = state.parts[-1].began + state.parts[-1].seconds
        busiest = max(p.cpu for p in _within(state.parts, now - options.panic_window))
        # Cores that a replica half fits into do count: one that computes uses a little more or less than one.
        fit = current if seen.cpu >= EXHAUSTED * seen.cores else _count(seen.cores / max(busiest, 1e-6) - 0.5)
        limits.append(Decision(fit, "cores", f"a replica uses {busiest:.2g} of {seen.cores:g} cores"))
    limit = min(limits, key=lambda one: one.replicas)
    if limit.replicas >= wanted.replicas:
        return wanted
    return Decision(
        max(current, limit.replicas), limit.cause, f"{wanted.reason}: {wanted.replicas}; but {limit.reason}"
    )


def _shrunk(options: AutoscalingOptions, state: State, seen: Observation, wanted: Decision) -> tuple[State, Decision]:
    """Fewer replicas, if the load fits with some to spare, has done so for the delay, and no panic lasts."""
    current = seen.ready + seen.starting
    now = state.seen_at or 0.0
    per_replica = (options.target_concurrency or max(seen.target, 1e-6)) * options.utilisation
    spared = _count(_mean_demand(state.parts) / (per_replica * (1 - SPARE)))
    fewer = max(wanted.replicas, spared, math.floor(current / options.max_down_rate))
    if fewer >= current or state.panic_since is not None:
        held: Cause = "steady" if state.panic_since is None else "panic"
        return replace(state, fewer_since=None), Decision(current, held, wanted.reason)
    since = state.fewer_since
    if since is None:
        state = replace(state, fewer_since=now, fewer=fewer)
        since = now
    else:
        state = replace(state, fewer=max(fewer, state.fewer))
    delay = options.down_delay * state.patience
    if now - since < delay:
        return state, Decision(current, "delay", f"{wanted.reason}; {now - since:.3g} of {delay:g} s")
    # Of those that were enough some may have gone since: giving up never orders any.
    calm = state.grown_at is None or now - state.grown_at > CALM * _regret(options)
    patience = 1 if calm else state.patience
    return replace(state, fewer_since=None, shrunk_at=now, patience=patience), Decision(
        min(state.fewer, current), "idle", wanted.reason
    )


def _patience_of_growth(options: AutoscalingOptions, state: State, grows: bool) -> State:
    """Growth soon after replicas were given up: that was regretted, and is put off twice as long the next time."""
    if not grows:
        return state
    now = state.seen_at or 0.0
    regretted = state.shrunk_at is not None and now - state.shrunk_at < _regret(options) * state.patience
    patience = min(2 * state.patience, MOST_PATIENCE) if regretted else state.patience
    return replace(state, grown_at=now, shrunk_at=None, patience=patience)


def _regret(options: AutoscalingOptions) -> float:
    """Seconds after replicas were given up, within which growth shows that they should not have been."""
    return options.stable_window + options.down_delay


def _count(replicas: float) -> int:
    """As whole replicas: a millionth more than a whole is rounding."""
    return math.ceil(min(replicas, 1e9) - 1e-6)


def _within(parts: Sequence[Part], oldest: float) -> Sequence[Part]:
    """The parts that end after a moment; at least the last."""
    return [one for one in parts if one.began + one.seconds > oldest + 1e-9] or parts[-1:]


def _mean_demand(parts: Sequence[Part]) -> float:
    total = sum(one.seconds for one in parts)
    return sum(one.demand * one.seconds for one in parts) / total if total else parts[-1].demand


def _rise(options: AutoscalingOptions, parts: Sequence[Part], now: float) -> float:
    """How fast demand rises, a second: the least of the rises between the quarters of the window.

    They must be alike, so that a ramp shows and a step does not, nor what only wavers.
    """
    quarter = options.stable_window / 4
    means: list[float] = []
    for k in (4, 3, 2, 1):
        mine = [one for one in parts if now - k * quarter <= one.began < now - (k - 1) * quarter]
        if not mine:
            return 0.0
        means.append(_mean_demand(mine))
    rises = [b - a for a, b in pairwise(means)]
    return min(rises) / quarter if min(rises) > max(rises) / STEADY else 0.0
