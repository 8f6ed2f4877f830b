"""What is next, by plain calls: order, kinds, priorities, room and counts."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.prediction.waiting import Waiting
from tidemill.prediction.queue import RATIO, Queue

LEVELS = 3


def queue(most: int = 100, **options: Any) -> Queue:
    return Queue(LEVELS, 2, lambda call: most, **options)


def pushed(found: Queue, *calls: Waiting) -> list[Waiting]:
    for call in calls:
        found.push(call)
    return list(calls)


def test_all_that_fits_is_one_call_in_the_order_of_arrival() -> None:
    found = queue()
    calls = pushed(found, *[Waiting(n) for n in (3, 1, 2)])
    assert found.take(0.0) == (calls, 6, ())
    assert (found.count, found.rows, found.nbytes) == (0, 0, 0)


def test_what_does_not_fit_is_the_next_call() -> None:
    found = queue(most=4)
    a, b, c = pushed(found, Waiting(3), Waiting(2), Waiting(2))
    assert found.take(0.0)[0] == [a]
    assert found.take(0.0)[0] == [b, c]


def test_a_kind_does_not_wait_behind_another() -> None:
    found = queue(most=10)
    wide = [Waiting(kind="wide") for _ in range(3)]
    narrow = [Waiting(kind="narrow") for _ in range(2)]
    pushed(found, wide[0], narrow[0], wide[1], wide[2], narrow[1])
    assert found.take(0.0)[0] == wide
    assert found.take(0.0)[0] == narrow


def test_kinds_take_turns_however_many_of_one_there_are() -> None:
    found = queue(most=2)
    common = pushed(found, *[Waiting(kind="common") for _ in range(6)])
    rare = pushed(found, Waiting(kind="rare"))
    assert [found.take(0.0)[0] for _ in range(3)] == [common[:2], rare, common[2:4]]


def test_without_merging_each_call_goes_alone() -> None:
    found = queue(merges=False)
    calls = pushed(found, Waiting(2), Waiting(3))
    assert [found.take(0.0)[:2] for _ in calls] == [([calls[0]], 2), ([calls[1]], 3)]


def test_the_largest_preferred_size_that_is_filled_is_taken() -> None:
    found = queue(most=16, preferred=(4, 8))
    pushed(found, *[Waiting() for _ in range(11)])
    assert [found.take(0.0)[1] for _ in range(2)] == [8, 3]


def test_late_calls_fall_out_and_are_told_of() -> None:
    found = queue()
    late, good = pushed(found, Waiting(2, deadline=1.0), Waiting(3, deadline=9.0))
    assert found.take(1.0) == ([good], 3, [late])
    assert late.waits_in is None
    assert found.count == 0


def test_the_highest_goes_first_and_the_default_is_the_middle() -> None:
    found = queue(most=1)
    low, default, high = pushed(found, Waiting(priority=3), Waiting(), Waiting(priority=1))
    lowest = pushed(found, Waiting(priority=99))[0]
    assert [found.take(0.0)[0] for _ in range(3)] == [[high], [default], [low]]
    assert found.take(0.0)[0] == [lowest]


def test_work_of_all_priorities_is_merged_where_it_fits() -> None:
    found = queue(most=3)
    low, high = pushed(found, Waiting(priority=3), Waiting(priority=1))
    pushed(found, *[Waiting(2, priority=3)])
    group, rows, _ = found.take(0.0)
    assert group == [high, low]
    assert rows == 2


@settings(max_examples=60)
@given(st.integers(1, LEVELS), st.integers(1, LEVELS), st.integers(1, 8))
def test_a_flood_of_one_priority_never_starves_another(flood: int, victim: int, size: int) -> None:
    """Whoever waits is served within its share of the rows, whatever else comes, and both ways round."""
    found = queue(most=size)
    pushed(found, *[Waiting(priority=flood) for _ in range(4 * size)])
    for _ in range(5):  # the flood has been served for a while
        found.take(0.0)
        pushed(found, *[Waiting(priority=flood) for _ in range(size)])
    mine = pushed(found, Waiting(priority=victim))[0]
    ahead = 0 if flood != victim else found.rows
    bound = 1 + (ahead + RATIO ** max(0, victim - flood) + size) // size
    for _ in range(bound):
        if mine in found.take(0.0)[0]:
            return
        pushed(found, *[Waiting(priority=flood) for _ in range(size)])
    raise AssertionError(f"not served within {bound} calls of {size} rows")


@settings(max_examples=30)
@given(st.integers(1, 4))
def test_two_floods_share_by_their_weights(size: int) -> None:
    found = queue(most=size)
    served: Counter[int] = Counter()
    for _ in range(900 // size):
        for priority in (1, 2):
            pushed(found, *[Waiting(priority=priority) for _ in range(max(0, 3 * size))])
        served.update(call.priority for call in found.take(0.0)[0])
    assert 0.8 * RATIO <= served[1] / served[2] <= 1.25 * RATIO


def test_a_full_queue_makes_room_for_those_with_less_than_their_share() -> None:
    found = queue(most=1)
    low = pushed(found, *[Waiting(priority=3) for _ in range(5)])
    assert list(found.displaceable(Waiting(priority=1))) == low[:0:-1], "the newest first, the last of them stays"
    assert list(found.displaceable(Waiting(priority=3))) == [], "nobody goes for one of its own"


def test_the_highest_makes_room_for_one_of_the_lowest() -> None:
    found = queue(most=1)
    high = pushed(found, *[Waiting(priority=1) for _ in range(99)])
    assert next(found.displaceable(Waiting(priority=3))) is high[-1]
    small = queue(most=1)
    few = pushed(small, *[Waiting(priority=2) for _ in range(2)])
    assert list(small.displaceable(Waiting(priority=3))) == few[1:]
    pushed(found, Waiting(priority=3))
    assert list(found.displaceable(Waiting(10, priority=3))) == [], "it has its share"


class Counts(RuleBasedStateMachine):
    """Whatever is pushed, taken, forgotten or expires: every call comes out once, and those that wait are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue(most=5)
        self.waiting: list[Waiting] = []
        self.now = 0.0
        self.kinds: tuple[object, ...] = (None,)

    @initialize(kinds=st.sampled_from([(None,), ("a", "b")]))
    def tell_kinds_apart(self, kinds: tuple[object, ...]) -> None:
        self.kinds = kinds

    @rule(
        n=st.integers(0, 7),
        priority=st.integers(0, 5),
        kind=st.integers(0, 1),
        within=st.sampled_from([0.5, 3.0, 1e9]),
    )
    def push(self, n: int, priority: int, kind: int, within: float) -> None:
        call = Waiting(n, priority, self.kinds[kind % len(self.kinds)], self.now + within)
        self.queue.push(call)
        self.waiting.append(call)

    @rule()
    def take(self) -> None:
        group, rows, late = self.queue.take(self.now)
        for call in (*group, *late):
            self.waiting.remove(call)
            assert call.waits_in is None
        assert rows == sum(call.rows.n for call in group)
        assert rows <= 5 or len(group) == 1
        assert len({call.kind for call in group}) <= 1
        assert all(call.deadline > self.now for call in group)
        assert all(call.deadline <= self.now for call in late)
        assert bool(group) == any(call.deadline > self.now for call in (*group, *self.waiting))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        call = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        call.cancel()

    @rule()
    def expire(self) -> None:
        late = self.queue.expired(self.now)
        assert sorted(map(id, late)) == sorted(id(c) for c in self.waiting if c.deadline <= self.now)
        for call in late:
            self.waiting.remove(call)
            call.cancel()

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def clear(self) -> None:
        assert sorted(map(id, self.queue.close())) == sorted(map(id, self.waiting))
        assert self.queue.count == self.queue.rows == 0
        # What was closed is not used again.
        self.queue = queue(most=5)
        self.waiting = []

    @invariant()
    def counts(self) -> None:
        assert self.queue.count == len(self.waiting)
        assert self.queue.rows == sum(call.rows.n for call in self.waiting)
        assert self.queue.nbytes == sum(call.size for call in self.waiting)
        assert sum(lane.rows for lane in self.queue.lanes) <= self.queue.rows

    def teardown(self) -> None:
        assert self.queue.soonest <= min([call.deadline for call in self.waiting], default=float("inf"))
        assert sum(lane.count for lane in self.queue.lanes) == len(self.waiting)


TestCounts = Counts.TestCase
