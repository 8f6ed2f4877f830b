"""The overload benchmark against a real server, briefly."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import overload


@pytest.mark.timeout(120)
def test_an_overload_is_played_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "MODELS", {"waiting": overload.MODELS["waiting"]})
    monkeypatch.setattr(overload, "FACTORS", (3.0,))
    monkeypatch.setattr(overload, "QUIET_S", 0.5)
    [found] = overload.run(tmp_path, 1)
    assert found.late == 0
    assert found.refused > 0
    assert found.goodput > 0
    assert found.answered_p99 >= 20
    assert found.refusal_p99 > 0
    assert len(found.failures) <= 4


def test_normal_begins_with_the_first_of_a_row_of_good_answers() -> None:
    at = np.arange(-5, 30) * 0.1
    good = np.ones(len(at), np.bool_)
    good[10] = False  # at 0.5 s
    assert overload._recovery(at, good) == pytest.approx(0.6)
    assert overload._recovery(at, np.zeros(len(at), np.bool_)) == float("inf")


def test_arrivals_are_as_many_as_planned_and_in_their_time() -> None:
    moments = overload._poisson(np.random.default_rng(1), 1000.0, 2.0, 12.0)
    assert moments.min() >= 2.0
    assert moments.max() < 12.0
    assert 9_500 < len(moments) < 10_500
