"""One CPU budget for several endpoints: never more than its cores, and fair by the time that was used."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.prediction.budget import LENT_AFTER, Budget, Held, Share


class Endpoint:
    """Wants a core as long as it has work; its calls take `seconds`."""

    def __init__(self, budget: Budget, seconds: float, cores: int = 1) -> None:
        self.budget = budget
        self.seconds = seconds
        self.calls: list[tuple[float, Held]] = []
        self.now = 0.0
        self.share = Share(cores, self.begin)

    def begin(self) -> None:
        held = self.budget.take(self.share)
        if held is not None:
            held.until = self.now + self.seconds
            self.calls.append((held.until, held))


def played(budget: Budget, endpoints: list[Endpoint], until: float) -> None:
    """Everybody always has more work than there are cores, until the moment `until`."""
    now = 0.0
    for one in endpoints:
        for _ in range(budget.cores):
            one.begin()
    while now < until:
        ends, one = min((call[0], i) for i, e in enumerate(endpoints) for call in e.calls)
        now = ends
        for other in endpoints:
            other.now = now
        call = min(endpoints[one].calls, key=lambda c: c[0])
        endpoints[one].calls.remove(call)
        budget.give(call[1], endpoints[one].seconds)
        endpoints[one].begin()
        assert budget.free >= 0


@settings(max_examples=30)
@given(st.integers(1, 4), st.lists(st.sampled_from([0.001, 0.01, 0.1]), min_size=2, max_size=4))
def test_time_is_shared_alike_whatever_a_call_takes(cores: int, seconds: list[float]) -> None:
    budget = Budget(cores)
    endpoints = [Endpoint(budget, s) for s in seconds]
    played(budget, endpoints, 4.0)
    used = [e.share.used for e in endpoints]
    assert max(used) - min(used) <= 2.0 * cores * max(seconds) + 0.5


def test_what_was_not_used_is_not_owed() -> None:
    budget = Budget(1)
    busy, late = Endpoint(budget, 1.0), Endpoint(budget, 1.0)
    for _ in range(100):
        busy.begin()
        budget.give(busy.calls.pop()[1], 1.0)
    busy.begin()
    late.begin()
    turns = []
    for _ in range(10):
        one = busy if busy.calls else late
        turns.append(one is busy)
        call = one.calls.pop()
        budget.give(call[1], 1.0)
        one.begin()
    assert 4 <= sum(turns) <= 6


def test_a_call_of_several_threads_takes_as_many_cores_and_never_more_than_there_are() -> None:
    budget = Budget(2)
    wide, narrow = Endpoint(budget, 1.0, cores=4), Endpoint(budget, 1.0)
    narrow.begin()
    wide.begin()
    assert not wide.calls
    budget.give(narrow.calls.pop()[1], 1.0)
    assert wide.calls
    assert budget.free == 0


def test_one_that_hangs_does_not_hold_up_the_others() -> None:
    budget = Budget(1)
    hanging, other = Endpoint(budget, 1.0), Endpoint(budget, 1.0)
    hanging.begin()
    other.begin()
    budget.reap(1.0 + LENT_AFTER)
    assert not other.calls, "it is not late enough"
    budget.reap(1.01 + LENT_AFTER)
    assert other.calls
    budget.give(hanging.calls[0][1], 100.0)
    assert budget.free == 0, "its core was lent, and is not given twice"


def test_the_others_slow_a_queue_down() -> None:
    budget = Budget(2)
    a, b = Endpoint(budget, 1.0), Endpoint(budget, 1.0)
    assert budget.slowdown(a.share, 2) == 1.0
    for _ in range(2):
        a.begin()
    b.begin()
    assert budget.slowdown(a.share, 2) == 2.0
    assert budget.slowdown(a.share, 1) == 1.0
    budget.leave(b.share)
    assert budget.slowdown(a.share, 2) == 1.0
