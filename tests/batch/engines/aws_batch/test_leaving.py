"""A container that is told to leave finishes what it can in the time that it has, and gives the rest up at once."""

from __future__ import annotations

import pytest

from tidemill.batch.engines.aws_batch.leaving import GRACE_SECONDS, Leaving
from tidemill.batch.plan import Shard
from tidemill.batch.sources import Piece
from tidemill.batch.watch import GivenUp


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shard(*rows: int | None) -> Shard:
    pieces = tuple(Piece(file=i, start=0, stop=1, first_row=0, rows=n) for i, n in enumerate(rows))
    return Shard(index=0, pieces=pieces)


def test_a_pace_is_not_what_opening_took() -> None:
    clock = Clock()
    leaving = Leaving(clock)
    note = leaving.noting(shard(1000))
    leaving.tell()
    clock.now = 3
    note(100, {})
    for _ in range(9):
        clock.now += 1
        note(100, {})


def test_a_first_chunk_that_takes_most_of_the_time_is_enough_to_tell() -> None:
    clock = Clock()
    leaving = Leaving(clock)
    note = leaving.noting(shard(1000))
    leaving.tell()
    clock.now = GRACE_SECONDS / 2 + 1
    with pytest.raises(GivenUp):
        note(100, {})


def test_nothing_is_given_up_while_nobody_asks() -> None:
    clock = Clock()
    note = Leaving(clock).noting(shard(100, 100))
    for _ in range(20):
        clock.now += 60
        note(10, {})


def test_a_shard_that_would_take_too_long_is_given_up_at_the_next_chunk() -> None:
    clock = Clock()
    leaving = Leaving(clock)
    note = leaving.noting(shard(1000))
    clock.now = 10
    note(100, {})
    leaving.tell()
    assert leaving.told
    clock.now = 20  # a tenth in ten seconds: 80 are left
    with pytest.raises(GivenUp):
        note(100, {})


def test_a_shard_that_is_nearly_done_is_finished() -> None:
    clock = Clock()
    leaving = Leaving(clock)
    note = leaving.noting(shard(600, 400))
    for _ in range(9):
        clock.now += 10
        note(100, {})
        leaving.tell() if clock.now == 80 else None
    clock.now += 10
    note(100, {})


def test_a_shard_that_slows_down_on_its_last_rows_is_given_up_when_the_time_is_over() -> None:
    clock = Clock()
    leaving = Leaving(clock)
    note = leaving.noting(shard(1000))
    clock.now = 10
    note(100, {})
    clock.now = 20
    note(850, {})
    leaving.tell()
    clock.now += GRACE_SECONDS / 2
    note(10, {})
    clock.now += GRACE_SECONDS
    with pytest.raises(GivenUp):
        note(10, {})


def test_a_shard_of_unknown_length_is_given_up() -> None:
    leaving = Leaving(Clock())
    note = leaving.noting(shard(100, None))
    note(100, {})
    leaving.tell()
    with pytest.raises(GivenUp):
        note(1, {})


def test_a_second_word_does_not_buy_more_time() -> None:
    clock = Clock()
    leaving = Leaving(clock)
    note = leaving.noting(shard(1000))
    clock.now = 10
    note(300, {})
    leaving.tell()
    clock.now += GRACE_SECONDS - 1
    leaving.tell()
    clock.now += 2
    with pytest.raises(GivenUp):
        note(300, {})
