"""Splitting or merging rows changes no answer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runtimes.cases import Case
from tests.runtimes.compare import assert_same
from tidemill.prediction.live import Live
from tidemill.prediction.result import Result
from tidemill.rows import Rows

N = 24
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
bad_rows = st.lists(st.integers(0, N - 1), max_size=6)


def merged(parts: list[Result]) -> Result:
    problems = []
    start = 0
    for part in parts:
        problems += [p.at(p.row + start) for p in part.problems]
        start += part.n
    return Result(Rows.concat([p.outputs for p in parts]), problems)


@few
@given(seed=st.integers(0, 99), bad=bad_rows, cuts=st.lists(st.integers(0, N), max_size=6))
def test_any_cut_into_calls(case: Case, live: Live, seed: int, bad: list[int], cuts: list[int]) -> None:
    rows = case.spoiled(case.rows(live.intake, N, seed), bad)
    whole = live.predict(rows)
    edges = [0, *sorted(cuts), N]
    parts = [live.predict(rows.slice(a, b)) for a, b in pairwise(edges)]
    assert_same(merged(parts), whole, live.package.manifest.outputs)


@few
@given(seed=st.integers(0, 99), bad=bad_rows, cuts=st.lists(st.integers(0, N), max_size=6))
def test_callers_that_were_merged_get_what_they_would_have_got_alone(
    case: Case, live: Live, seed: int, bad: list[int], cuts: list[int]
) -> None:
    rows = case.spoiled(case.rows(live.intake, N, seed), bad)
    edges = [0, *sorted(cuts), N]
    callers = [rows.slice(a, b) for a, b in pairwise(edges)]
    together = live.predict(Rows.concat(callers))
    for caller, (a, b) in zip(callers, pairwise(edges), strict=True):
        assert_same(together.slice(a, b), live.predict(caller), live.package.manifest.outputs)


@few
@given(seed=st.integers(0, 99), bad=bad_rows, order=st.permutations(range(N)))
def test_any_order(case: Case, live: Live, seed: int, bad: list[int], order: list[int]) -> None:
    rows = case.spoiled(case.rows(live.intake, N, seed), bad)
    whole = live.predict(rows)
    problems = [p.at(i) for i, row in enumerate(order) for p in whole.problems if p.row == row]
    expected = Result(whole.outputs.take(np.array(order)), problems)
    assert_same(live.predict(rows.take(np.array(order))), expected, live.package.manifest.outputs)


@few
@given(seed=st.integers(0, 99), bad=bad_rows, size=st.integers(1, N))
def test_any_bound_on_the_rows_of_a_model_call(case: Case, live: Live, seed: int, bad: list[int], size: int) -> None:
    rows = case.spoiled(case.rows(live.intake, N, seed), bad)
    pieces = Live(live.package, live.runtime, call_rows=size).predict(rows)
    assert_same(pieces, live.predict(rows), live.package.manifest.outputs)
