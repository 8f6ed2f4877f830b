"""Which replicas to start and which to let go: a pure function of those there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Plan", "View", "plan"]


@dataclass(frozen=True, slots=True)
class View:
    """A replica that is not on its way out. `current`: it serves what is to be served now and is not to be replaced."""

    id: int
    ready: bool
    current: bool
    in_flight: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many to start, and the ids of those to let go."""

    start: int
    retire: tuple[int, ...]


def plan(replicas: Sequence[View], wanted: int, room: int) -> Plan:
    """The next step towards `wanted` current replicas that are ready; `room` more fit into memory.

    What is old is replaced one by one: a new one is started first, and an old one goes once as many as wanted are
    ready without it. Where there is no room for one more, an old one goes first, unless it is the only one that is
    ready.
    """
    current = [one for one in replicas if one.current]
    old = [one for one in replicas if not one.current]
    ready = [one for one in current if one.ready]
    missing = wanted - len(current)
    if not old:
        return Plan(max(0, min(missing, max(room, 0 if current else 1))), _surplus(current, -missing))

    spare = len(ready) + len(old) - wanted
    # Old ones that are not even ready serve nobody.
    leaving = sorted(old, key=lambda one: (one.ready, one.in_flight))
    retire = [one.id for one in leaving if not one.ready] if ready else []
    retire += [one.id for one in leaving if one.id not in retire][: max(0, spare - len(retire))]
    still = len(current) + len(old) - len(retire)
    start = 1 if missing > 0 and len(ready) == len(current) and still <= wanted else 0
    start = max(start, min(missing, wanted - still))
    if start > room:
        servers = len(ready) + sum(one.ready for one in old)
        if not retire and servers > 1:
            retire = [leaving[0].id]
        start = max(0, room)
    return Plan(start, tuple(retire))


def _surplus(current: Sequence[View], many: int) -> tuple[int, ...]:
    """Those that are not ready first, then those with the least to finish, the youngest of them."""
    order = sorted(current, key=lambda one: (one.ready, one.in_flight, -one.id))
    return tuple(one.id for one in order[: max(0, many)])
