"""What counts as better, what as the same, and which form is the best of those that are better."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tidemill.model.manifest import Figures
from tidemill.optimise import cpu
from tidemill.optimise.judge import best_of, gains_and_losses, verdict, why_slow
from tidemill.optimise.measure import noise, ratio
from tidemill.optimise.options import Candidate, Spread

SAME = Spread(low=0.99, middle=1.0, high=1.01)


def spread(low: float, high: float) -> Spread:
    return Spread(low=low, middle=(low + high) / 2, high=high)


def candidate(name: str, batch: float, single: float = 1.0, size: float = 1.0, **more: Any) -> Candidate:
    gains, losses, slower = gains_and_losses(spread(batch, batch), spread(single, single), size, 0.02, 0.02)
    fields = {
        "name": name,
        "how": name,
        "verdict": verdict(0.0, 0.01, gains),
        "figures": Figures(metric=0.9, rows_per_second=1.0, p50_ms=1.0, p99_ms=1.0, bytes=1),
        "drop": 0.0,
        "batch": spread(batch, batch),
        "single": spread(single, single),
        "size": size,
        "rows_independent": True,
        "differences": {},
        "gains": gains,
        "losses": losses,
        "slower": slower,
    }
    return Candidate(**(fields | more))


def test_a_difference_counts_where_three_quarters_of_the_rounds_are_beyond_the_noise() -> None:
    assert gains_and_losses(spread(1.06, 1.2), SAME, 1.0, 0.05, 0.02) == (("1.13x rows/s",), (), False)
    assert gains_and_losses(spread(1.04, 1.4), SAME, 1.0, 0.05, 0.02) == ((), (), False)
    assert gains_and_losses(SAME, spread(0.8, 0.9), 1.0, 0.02, 0.05) == ((), ("0.85x speed at one row",), True)
    assert gains_and_losses(SAME, spread(0.8, 0.97), 1.0, 0.02, 0.05) == ((), (), False)
    assert gains_and_losses(SAME, SAME, 0.5, 0.02, 0.02) == (("0.50x size",), (), False)
    assert gains_and_losses(SAME, SAME, 0.97, 0.02, 0.02) == ((), (), False)
    assert gains_and_losses(SAME, SAME, 1.5, 0.02, 0.02) == ((), ("1.50x size",), False)


def test_ratios_are_taken_round_by_round() -> None:
    # The machine was half as fast in the second round: both were.
    assert ratio([200, 100, 210], [100, 50, 100]) == Spread(low=2.0, middle=2.0, high=2.05)


def test_the_noise_is_how_far_the_same_is_from_itself_and_never_nothing() -> None:
    assert noise(Spread(low=0.9, middle=1.0, high=1.04)) == pytest.approx(0.1)
    assert noise(Spread(low=1.0, middle=1.0, high=1.0)) == 0.02


def test_a_metric_that_drops_too_far_or_is_no_number_is_refused_whatever_it_gains() -> None:
    assert verdict(0.011, 0.01, ["9.00x rows/s"]) == "metric"
    assert verdict(math.nan, 0.01, ["9.00x rows/s"]) == "metric"
    assert verdict(0.01, 0.01, ["9.00x rows/s"]) == "offered"
    assert verdict(-0.2, 0.0, ["9.00x rows/s"]) == "offered"
    assert verdict(0.0, 0.0, []) == "no gain"


def test_the_best_has_the_greatest_product_of_both_speeds() -> None:
    quick, even = candidate("quick", 3.0, 0.4), candidate("even", 1.5, 1.2)
    assert best_of([quick, even])[0] is even
    assert best_of([quick])[1] == "quick: 3.00x rows/s, but 0.40x speed at one row"
    ruined = candidate("ruined", 9.0, 9.0, verdict="metric")
    assert best_of([ruined, even])[0] is even


def test_what_is_smaller_and_slower_is_offered_and_never_the_best_by_itself() -> None:
    small = candidate("small", 0.5, 0.9, 0.25)
    best, reason = best_of([small])
    assert best is None
    assert "small has 0.25x size, but 0.50x rows/s, 0.90x speed at one row: --choose small takes it" in reason


def test_why_none_is_worth_having() -> None:
    ruined, same = candidate("ruined", 2.0, verdict="metric"), candidate("same", 1.0)
    assert best_of([ruined, same, same]) == (
        None,
        "1 of 3 lose too much of the metric; 2 of 3 are neither quicker nor smaller beyond the noise",
    )
    assert best_of([]) == (None, "there is nothing in this model to optimise")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("fpu avx2", "int8 is slower on this CPU: AVX2 without VNNI"),
        ("avx2 avx512f avx512_vnni", "int8 is slower here though this CPU has AVX-512 VNNI"),
        ("asimd", "int8 is slower on this CPU: NEON without dot products of bytes"),
    ],
)
def test_says_what_this_cpu_has_to_do_with_it(flags: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_field", lambda name: flags if name == "flags" else "")
    assert why_slow("prune0.3-static")[0].startswith(told)
    assert why_slow("dynamic")[0].startswith(told)
    assert "which has no FP16 arithmetic" in why_slow("fp16")[0]
    assert why_slow("prune0.3") == ()
