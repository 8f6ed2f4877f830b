"""Who is taken: by room, by the wait to expect, by the deadline. Plain numbers, no model and no clock."""

import math
from typing import Any

import pytest

from tests.prediction.waiting import Waiting
from tidemill.prediction.admission import Admission, Load
from tidemill.prediction.limits import BatchLimits
from tidemill.prediction.pace import Pace
from tidemill.prediction.profile import Profile
from tidemill.prediction.queue import Queue

# 20 ms, however many rows.
FLAT = Profile((1, 1024), (0.02, 0.02))
SLO = 0.1


class Door:
    """An endpoint's admission, and what it is asked about."""

    def __init__(self, profile: Profile = FLAT, *, merges: bool = False, slo: float = SLO, **limits: Any) -> None:
        found = BatchLimits(**limits)
        self.queue = Queue(found.priority_levels, found.default_priority, lambda call: found.max_rows, merges=merges)
        self.admission = Admission(found, Pace(profile), slo, merges=merges)
        self.most = found.max_rows

    def asked(
        self, call: Waiting, busy: tuple[float, ...] = (), workers: int = 1, typical: float = 0.0, slowdown: float = 1.0
    ) -> str | None:
        return self.admission.refusal(call, self.queue, Load(busy, workers, self.most, typical, slowdown), 0.0)

    def filled(self, *calls: Waiting) -> "Door":
        for call in calls:
            self.queue.push(call)
        return self


def test_who_finds_nobody_is_taken_whatever_is_expected() -> None:
    """An estimate that is too high would otherwise never be corrected."""
    assert Door(Profile((1,), (60.0,))).asked(Waiting(deadline=0.1)) is None
    assert Door(max_queue_rows=5).asked(Waiting(50)) is None


def test_as_many_wait_as_can_be_answered_within_the_slo() -> None:
    door = Door()
    taken = 0
    while door.asked(call := Waiting(), busy=(0.02,)) is None:
        door.filled(call)
        taken += 1
    # 80 ms of the 100 are promised: one runs, two wait, and the call itself.
    assert taken == 3
    assert door.asked(Waiting(), busy=(0.02,)) == "wait"
    assert door.asked(Waiting(deadline=3600.0), busy=(0.02,)) == "wait", "a longer deadline gets no longer queue"


def test_several_workers_take_as_many_more() -> None:
    door = Door()
    busy = tuple(0.02 * (i + 1) / 8 for i in range(8))
    taken = 0
    while door.asked(call := Waiting(), busy=busy, workers=8) is None:
        door.filled(call)
        taken += 1
    assert 8 * 3 <= taken <= 8 * 3 + 7


def test_a_model_slower_than_its_slo_still_has_a_queue_of_one() -> None:
    door = Door(Profile((1,), (0.3,)))
    assert door.asked(Waiting(), busy=(0.3,)) is None
    assert door.filled(Waiting()).asked(Waiting(), busy=(0.3,)) == "wait"


def test_another_bound_may_be_set() -> None:
    door = Door(max_wait=1.0).filled(*[Waiting() for _ in range(40)])
    assert door.asked(Waiting(), busy=(0.02,)) is None
    assert door.filled(*[Waiting() for _ in range(20)]).asked(Waiting(), busy=(0.02,)) == "wait"


def test_what_cannot_make_its_deadline_is_refused() -> None:
    door = Door().filled(Waiting())
    assert door.asked(Waiting(deadline=0.05), busy=(0.02,)) == "deadline"
    assert door.asked(Waiting(deadline=0.07), busy=(0.02,)) is None


def test_what_is_merged_is_one_call() -> None:
    door = Door(merges=True, max_rows=100).filled(*[Waiting() for _ in range(99)])
    assert door.asked(Waiting(deadline=0.05), busy=(0.02,)) is None
    assert door.filled(Waiting()).asked(Waiting(deadline=0.05), busy=(0.02,)) == "deadline", "it needs another one"


def test_a_call_that_is_joined_takes_as_long_as_calls_lately_did() -> None:
    linear = Profile((1, 100), (0.001, 0.1))
    assert Door(linear, merges=True).asked(Waiting(deadline=0.03), busy=(0.01,)) is None
    assert Door(linear, merges=True).asked(Waiting(deadline=0.03), busy=(0.01,), typical=40.0) == "deadline"


def test_kinds_are_calls_of_their_own() -> None:
    door = Door(merges=True).filled(*[Waiting(kind=i) for i in range(4)])
    assert door.asked(Waiting(kind=9), busy=(0.02,)) == "wait"
    assert Door(merges=True).filled(*[Waiting(kind=1) for _ in range(4)]).asked(Waiting(kind=1), busy=(0.02,)) is None


def test_others_that_compute_make_the_wait_longer() -> None:
    door = Door().filled(Waiting())
    assert door.asked(Waiting(deadline=0.07), busy=(0.02,)) is None
    assert door.asked(Waiting(deadline=0.07), busy=(0.02,), slowdown=2.0) == "deadline"


def test_the_deadline_of_a_high_priority_is_judged_by_what_goes_before_it() -> None:
    door = Door(slo=10.0).filled(*[Waiting(priority=3) for _ in range(20)])
    assert door.asked(Waiting(priority=1, deadline=0.07), busy=(0.02,)) is None
    assert door.asked(Waiting(priority=3, deadline=0.07), busy=(0.02,)) == "deadline"


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_queue_rows": 2}, "2 rows wait, the limit is 2"),
        ({"max_queue_bytes": 8}, "8 bytes wait, the limit is 8"),
    ],
)
def test_a_full_queue_says_of_what(limits: dict[str, int], text: str) -> None:
    door = Door(**limits).filled(Waiting(), Waiting())
    call = Waiting()
    assert door.asked(call) == "queue_full"
    error = door.admission.told("queue_full", call, door.queue, Load((0.02,), 1, door.most, 0.0, 1.0), 0.0)
    assert text in str(error)
    assert error.reason == "queue_full"
    assert error.retry_after == pytest.approx(0.06)


def test_a_refusal_says_what_waits_and_what_was_wanted() -> None:
    door = Door().filled(*[Waiting() for _ in range(4)])
    load = Load((0.02,), 1, door.most, 0.0, 1.0)
    told = {
        reason: str(door.admission.told(reason, Waiting(deadline=0.05), door.queue, load, 0.0))
        for reason in ("wait", "deadline")
    }
    assert told["wait"].endswith("99 % of answers are to be given within 100 ms")
    assert told["deadline"].endswith("its deadline is in 50 ms")
    assert all(text.startswith("about 100 ms of work wait and this call takes 20 ms; ") for text in told.values())
    assert math.isfinite(door.admission.told("wait", Waiting(), door.queue, load, 0.0).retry_after)


def test_less_is_promised_while_answers_miss_the_slo_and_all_of_it_again_once_nobody_is_refused() -> None:
    door = Door().filled(*[Waiting() for _ in range(2)])
    load = Load((0.02,), 1, door.most, 0.0, 1.0)
    assert door.asked(Waiting(), busy=(0.02,)) is None
    for _ in range(50):
        door.admission.told("wait", Waiting(), door.queue, load, 0.0)
        door.admission.answered(2 * SLO)
    assert door.asked(Waiting(), busy=(0.02,)) == "wait"
    for _ in range(50):
        door.admission.answered(SLO / 2)
    assert door.asked(Waiting(), busy=(0.02,)) is None
