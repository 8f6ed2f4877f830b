"""Overload in simulated time: the policy itself loses no goodput, keeps the SLO and recovers, machine or no machine."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.prediction.simulated import SLO, Simulated, poisson
from tidemill.prediction.profile import Profile
from tidemill.prediction.queue import RATIO

FLAT = Profile((1, 1024), (0.02, 0.02))
LINEAR = Profile((1, 1024), (0.002, 1.024))


def jittered(mean: float) -> Callable[[float, int], float]:
    """What calls of about so many seconds take: a tenth more or less, and one in a hundred three times as long."""
    rng = np.random.default_rng(7)

    def seconds(now: float, rows: int) -> float:
        return mean * rng.normal(1.0, 0.1) * (3.0 if rng.random() < 0.01 else 1.0) + 1e-6

    return seconds


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_goodput_is_that_of_the_peak_and_answers_keep_the_slo(workers: int, factor: float) -> None:
    capacity = workers / (0.02 * 1.02)
    found = Simulated(FLAT, jittered(0.02), workers=workers, merges=False)
    found.play((at, 0) for at in poisson(factor * capacity, 0.0, 60.0, seed=workers))
    took, refused = found.latencies(5.0, 55.0)
    assert (took <= SLO).sum() / 50 >= 0.95 * capacity
    assert np.quantile(took, 0.99) <= SLO
    assert refused > 0


def test_calls_that_are_merged_are_as_large_as_the_slo_allows() -> None:
    """A row costs a millisecond: 1,000 a second at most, in calls of up to half of the SLO."""
    found = Simulated(LINEAR, lambda now, rows: 0.001 + 0.001 * rows, workers=1, merges=True)
    found.play((at, 0) for at in poisson(3000.0, 0.0, 20.0, seed=1))
    took, _ = found.latencies(2.0, 18.0)
    assert (took <= SLO).sum() / 16 >= 0.95 * 1000 * 0.97
    assert np.quantile(took, 0.99) <= SLO


def test_a_model_that_became_slower_than_its_profile_is_known_to_be() -> None:
    """Four times slower than when it was loaded: fewer are taken, and those in time."""
    found = Simulated(FLAT, jittered(0.04), workers=4, merges=False)
    capacity = 4 / (0.04 * 1.02)
    found.play((at, 0) for at in poisson(2 * capacity, 0.0, 40.0, seed=3))
    took, _ = found.latencies(5.0, 35.0)
    assert (took <= SLO).sum() / 30 >= 0.9 * capacity
    assert np.quantile(took, 0.95) <= SLO


def test_it_is_normal_again_within_a_second_after_the_load_and_after_the_model_was_slow() -> None:
    def seconds(now: float, rows: int) -> float:
        return 0.1 if 5.0 <= now < 8.0 else 0.02

    found = Simulated(FLAT, seconds, workers=2, merges=False)
    quiet = poisson(50, 0.0, 5.0, seed=1), poisson(50, 10.0, 20.0, seed=2)
    found.play((at, 0) for at in [*quiet[0], *poisson(300, 5.0, 10.0, seed=3), *quiet[1]])
    took, refused = found.latencies(11.0, 20.0)
    assert refused <= 0.01 * len(took)
    assert np.quantile(took, 0.99) <= SLO
    took, _ = found.latencies(9.0, 10.0)
    assert (took <= SLO).sum() >= 0.95 * 100, "the model is quick again since a second, and all that it can do is used"


@pytest.mark.parametrize(("flood", "other"), [(3, 1), (1, 3), (2, 1), (2, 3)])
def test_a_flood_leaves_the_other_priority_its_share(flood: int, other: int) -> None:
    found = Simulated(FLAT, jittered(0.02), workers=2, merges=False)
    capacity = 2 / (0.02 * 1.02)
    arrivals = [(at, flood) for at in poisson(5 * capacity, 0.0, 60.0, seed=4)]
    some = 0.1 * capacity
    arrivals += [(at, other) for at in poisson(some, 0.0, 60.0, seed=5)]
    found.play(sorted(arrivals))
    took, refused = found.latencies(5.0, 55.0, other)
    answered = len(took) / (len(took) + refused)
    if other < flood:
        assert answered >= 0.95, "it has a right to more than this; only a queue of one or two has no place for it"
        assert np.quantile(took, 0.99) <= SLO
    else:
        share = RATIO ** (flood - other)  # of what the flood gets
        assert len(took) / 50 >= 0.7 * min(some, share / (1 + share) * capacity)
    took, _ = found.latencies(5.0, 55.0)
    assert len(took) / 50 >= 0.95 * capacity
