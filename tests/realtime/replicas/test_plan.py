"""Which replicas to start and to let go, step by step until nothing is left to do."""

import random

import pytest

from tidemill.realtime.replicas.backoff import Backoff
from tidemill.realtime.replicas.plan import Plan, View, plan


def old(*ids: int, ready: bool = True) -> list[View]:
    return [View(id=i, ready=ready, current=False) for i in ids]


def new(*ids: int, ready: bool = True) -> list[View]:
    return [View(id=i, ready=ready, current=True) for i in ids]


def test_all_that_are_missing_start_at_once() -> None:
    assert plan([], 3, room=99) == Plan(3, ())
    assert plan(new(1), 3, room=99) == Plan(2, ())


def test_what_does_not_fit_is_not_started_but_one_always_is() -> None:
    assert plan(new(1), 4, room=2) == Plan(2, ())
    assert plan(new(1), 4, room=0) == Plan(0, ())
    assert plan([], 4, room=0) == Plan(1, ())


def test_of_too_many_those_go_first_that_serve_nobody_and_then_the_idle() -> None:
    busy = [View(id=1, ready=True, current=True, in_flight=9.0), View(id=2, ready=True, current=True, in_flight=1.0)]
    assert plan([*busy, *new(3, ready=False)], 2, room=99) == Plan(0, (3,))
    assert plan(busy, 1, room=99) == Plan(0, (2,))


def test_a_stuck_one_goes_once_its_successor_is_ready() -> None:
    assert plan(old(1), 1, room=99) == Plan(1, ())
    assert plan([*old(1), *new(2, ready=False)], 1, room=99) == Plan(0, ())
    assert plan([*old(1), *new(2)], 1, room=99) == Plan(0, (1,))


def test_without_room_for_one_more_an_old_one_goes_first_unless_it_is_the_last() -> None:
    assert plan(old(1, 2), 2, room=0) == Plan(0, (1,))
    assert plan(old(1), 1, room=0) == Plan(0, ())


@pytest.mark.parametrize("seed", range(200))
def test_a_roll_never_leaves_fewer_ready_than_wanted_nor_more_than_one_above(seed: int) -> None:
    rng = random.Random(seed)
    wanted = rng.randint(1, 6)
    replicas = old(*range(wanted))
    number = wanted
    for _ in range(100):
        step = plan(replicas, wanted, room=99)
        replicas = [one for one in replicas if one.id not in step.retire]
        assert sum(one.ready for one in replicas) >= wanted
        replicas += new(*range(number, number + step.start), ready=False)
        number += step.start
        assert len(replicas) <= wanted + 1
        starting = [one for one in replicas if not one.ready]
        if starting and rng.random() < 0.5:
            replicas = [one for one in replicas if one is not starting[0]] + new(starting[0].id)
        if all(one.current and one.ready for one in replicas):
            break
    assert len(replicas) == wanted
    assert all(one.current and one.ready for one in replicas)


def test_what_fails_is_tried_at_once_then_ever_later_and_at_once_again_after_a_while() -> None:
    backoff = Backoff(first=1.0, most=8.0, stable=60.0)
    waits = [backoff.failed(100.0) for _ in range(8)]
    assert waits[0] == 0.0
    for wait, bound in zip(waits[1:], (1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0), strict=True):
        assert bound / 2 <= wait <= bound
    assert backoff.until == 100.0 + waits[-1]
    assert backoff.failed(161.0) == 0.0
