"""What calls are expected to take and to wait: by size, for several workers, soon right again after it was wrong."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.prediction.pace import Pace, RowLimit, begins_in
from tidemill.prediction.profile import Profile

FLAT = Profile((1, 1024), (0.02, 0.02))
LINEAR = Profile((1, 1000), (0.001, 1.0))


def test_a_size_is_expected_to_take_what_it_took_lately() -> None:
    pace = Pace(LINEAR)
    for _ in range(20):
        pace.took(10, 0.05)
    assert pace.expected(10) == pytest.approx(0.05, rel=0.05)
    for _ in range(20):
        pace.took(500, 0.5)
    assert pace.expected(500) == pytest.approx(0.5, rel=0.05)
    assert pace.expected(10) == pytest.approx(0.05, rel=0.05), "another size says nothing of this one"


def test_a_size_never_seen_is_as_much_slower_as_the_last_one_seen() -> None:
    pace = Pace(LINEAR)
    for _ in range(20):
        pace.took(10, 0.02)
    assert pace.expected(300) == pytest.approx(0.6, rel=0.05)


def test_one_call_that_was_held_up_is_forgotten() -> None:
    pace = Pace(FLAT)
    pace.took(1, 10.0)
    assert pace.expected(1) == pytest.approx(0.02)
    pace.took(1, 0.02)
    assert pace.expected(1) == pytest.approx(0.02)


@given(st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_a_change_is_known_after_ten_calls(before: float, after: float) -> None:
    pace = Pace(FLAT)
    for _ in range(30):
        pace.took(1, before)
    for _ in range(12):
        pace.took(1, after)
    assert abs(pace.expected(1) - after) <= 0.05 * abs(before - after) + 1e-3


@given(
    st.integers(1, 6).flatmap(
        lambda workers: st.tuples(st.just(workers), st.lists(st.floats(0, 1), max_size=workers), st.integers(0, 20))
    )
)
def test_the_wait_is_that_of_calls_dealt_to_whoever_is_free(case: tuple[int, list[float], int]) -> None:
    workers, busy, ahead = case
    free = [*busy, *[0.0] * (workers - len(busy))]
    heapq.heapify(free)
    for _ in range(ahead):
        heapq.heappush(free, heapq.heappop(free) + 1.0)
    assert begins_in(busy, workers, ahead, 1.0) == pytest.approx(free[0])


def test_without_a_worker_nothing_begins() -> None:
    assert begins_in([], 0, 0, 1.0) == float("inf")


def test_the_limit_begins_where_the_profile_says_that_calls_are_short_enough() -> None:
    assert RowLimit(LINEAR, 0.05, 1024).rows == 50
    assert RowLimit(LINEAR, 0.05, 20).rows == 20


def test_the_limit_falls_when_calls_are_too_long_and_rises_again_when_they_are_not() -> None:
    limit = RowLimit(LINEAR, 0.05, 1024)
    for _ in range(10):  # all is five times slower
        limit.took(limit.rows, limit.rows * 0.005)
    assert limit.rows * 0.005 <= 0.05 * 1.5
    for _ in range(100):
        limit.took(limit.rows, limit.rows * 0.0001)
    assert limit.rows * 0.0001 >= 0.05 * 0.7


def test_small_calls_say_nothing_of_a_greater_limit() -> None:
    limit = RowLimit(LINEAR, 0.05, 1024)
    for _ in range(100):
        limit.took(1, 0.001)
    assert limit.rows == 50


def test_the_limit_does_not_fall_where_smaller_calls_are_hardly_shorter() -> None:
    limit = RowLimit(Profile((1, 1024), (0.06, 0.1)), 0.05, 1024)
    for _ in range(50):
        limit.took(limit.rows, 0.08)
    assert limit.rows == 1024
