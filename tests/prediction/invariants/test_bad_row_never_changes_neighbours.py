"""One bad row never changes its neighbours: neither their answers nor their statuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.prediction.recording import recorded
from tests.runtimes.cases import Case
from tests.runtimes.compare import assert_same
from tidemill.prediction.live import Live
from tidemill.prediction.result import Result

N = 20
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(seed=st.integers(0, 99), bad=st.sets(st.integers(0, N - 1), min_size=1))
def test_a_row_that_breaks_the_signature(case: Case, live: Live, seed: int, bad: set[int]) -> None:
    rows = case.rows(live.intake, N, seed)
    clean = live.predict(rows)
    spoiled = live.predict(case.spoiled(rows, sorted(bad)))
    assert [s == "rejected" for s in spoiled.statuses()] == [i in bad for i in range(N)]
    good = np.array([i for i in range(N) if i not in bad], np.intp)
    found = Result(spoiled.outputs.take(good), [p for p in spoiled.problems if p.row not in bad])
    assert_same(found, Result(clean.outputs.take(good)), live.package.manifest.outputs)


@pytest.fixture(scope="module")
def unlucky(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A Python model that raises for a call with a 13 in it."""
    return recorded(tmp_path_factory.mktemp("unlucky") / "p", call_rows=8)[0]


@given(values=st.lists(st.sampled_from([1.0, 2.0, 13.0, None]), max_size=30))
def test_a_row_that_the_model_fails_on(unlucky: Live, values: list[float | None]) -> None:
    together = unlucky.predict(unlucky.intake.from_lists({"x": (None, values)}))
    assert together.n == len(values)
    for i, value in enumerate(values):
        alone = unlucky.predict(unlucky.intake.from_lists({"x": (None, [value])}))
        assert_same(together.slice(i, i + 1), alone, unlucky.package.manifest.outputs)


def test_a_model_that_writes_into_its_rows_and_then_fails(tmp_path: Path) -> None:
    """What it wrote would be asked again by halves."""
    live, _ = recorded(tmp_path / "p", "if (rows['x'] == 13).any():\n    rows['x'][:] = 0\nreturn {'y': rows['x'] * 2}")
    result = live.predict(live.intake.from_lists({"x": (None, [1, 13, 2, 3])}))
    assert result.statuses() == ["ok", "failed", "ok", "ok"]
    assert result.outputs["y"][[0, 2, 3]].tolist() == [2, 4, 6]
