"""Who is guilty, found by asking in ever smaller parts: the innocent are answered, in a bounded number of deaths."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tidemill.batch.workers.limits import Death
from tidemill.batch.workers.process import Answer
from tidemill.batch.workers.settle import MOST_DEATHS, settle


@dataclass
class Model:
    """Ends its process at each guilty row. `leaks`: it also ends it after so many asks, whatever they are."""

    guilty: set[int]
    call_rows: int = 1024
    code: str = "worker_died"
    knows: bool = True
    leaks: int | None = None
    asked: list[tuple[int, int, bool]] = field(default_factory=list)
    deaths: int = 0
    since: int = 0

    def ask(self, start: int, stop: int, alone: bool) -> Answer | Death:
        self.asked.append((start, stop, alone))
        if alone:
            self.since = 0
        fresh, self.since = self.since == 0, self.since + 1
        tired = self.leaks is not None and self.since > self.leaks
        for first in range(start, stop, self.call_rows):
            last = min(first + self.call_rows, stop)
            if tired or any(first <= g < last for g in self.guilty):
                self.deaths += 1
                self.since = 0
                at = (first, last) if self.knows else (start, stop)
                return Death(self.code, "ended", *at, fresh)
        return Answer(start, stop, pa.record_batch({"row": list(range(start, stop))}), [])


def settled(model: Model, n: int, *, at_once: int | None = None, divisible: bool = True) -> tuple[list[int], list[int]]:
    """Answered and dead rows; they are all there, in order."""
    found = settle(n, model.ask, at_once=at_once, divisible=divisible)
    assert [r for a in found for r in range(a.start, a.stop)] == list(range(n))
    answered = [r for a in found if a.table is not None for r in a.table["row"].to_pylist()]
    dead = [a.start + p.row for a in found for p in a.problems]
    assert sorted(answered + dead) == list(range(n))
    return answered, dead


@given(st.integers(1, 5000), st.sets(st.integers(0, 4999), max_size=6), st.integers(1, 2000), st.booleans())
def test_the_guilty_are_found_and_nobody_else(n: int, guilty: set[int], call_rows: int, knows: bool) -> None:
    guilty = {g for g in guilty if g < n}
    model = Model(guilty, call_rows, knows=knows)
    _, dead = settled(model, n)
    assert dead == sorted(guilty)
    assert model.deaths <= 5 * len(guilty)


@given(st.sets(st.integers(0, 999), max_size=6))
def test_rows_that_never_return_are_not_asked_once_more(guilty: set[int]) -> None:
    model = Model(guilty, code="timeout")
    assert settled(model, 1000)[1] == sorted(guilty)
    assert not any(alone for _, _, alone in model.asked)
    assert model.deaths <= 3 * len(guilty)


def test_a_process_that_wears_out_makes_no_row_guilty() -> None:
    model = Model(set(), call_rows=100, leaks=2)
    assert settled(model, 5000)[1] == []


def test_a_chunk_of_nothing_but_poison_is_given_up() -> None:
    model = Model(set(range(16_384)))
    _, dead = settled(model, 16_384)
    assert len(dead) == 16_384
    assert model.deaths == MOST_DEATHS == 32


def test_what_is_given_up_is_told_from_what_is_guilty() -> None:
    found = settle(2000, Model(set(range(2000))).ask, at_once=None, divisible=True)
    texts = {p.message.partition(":")[0] for a in found for p in a.problems}
    assert texts == {"the process of the model ended", "not asked alone"}


def test_rows_that_depend_on_each_other_share_their_end() -> None:
    model = Model({7}, call_rows=10_000)
    assert settled(model, 500, divisible=False) == ([], list(range(500)))
    assert model.deaths == 1


def test_what_may_not_be_asked_twice_is_asked_by_calls() -> None:
    model = Model({150}, call_rows=100)
    answered, dead = settled(model, 500, at_once=100, divisible=False)
    assert dead == list(range(100, 200))
    assert len(answered) == 400
    assert [a[:2] for a in model.asked] == [(i, i + 100) for i in range(0, 500, 100)]


def test_no_rows() -> None:
    assert settle(0, Model(set()).ask, at_once=None, divisible=True) == []
