"""Token buckets, on a clock that the test turns."""

from __future__ import annotations

import pytest

from tidemill.errors import Overloaded
from tidemill.realtime.security import rates as module
from tidemill.realtime.security.options import Rate, RateLimits
from tidemill.realtime.security.rates import Rates


class Clock:
    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def taken(rates: Rates, caller: str, model: str = "m", most: int = 100_000) -> int:
    """How many requests are let in at this moment."""
    for n in range(most):
        try:
            rates.admit(caller, model)
        except Overloaded:
            return n
    return most


@pytest.mark.parametrize(
    ("rate", "burst", "at_once"), [(10, 1, 10), (10, 2, 20), (1000, 3, 3000), (0.5, 1, 1), (3, 0.01, 1)]
)
def test_a_burst_and_then_the_rate(rate: float, burst: float, at_once: int, clock: Clock) -> None:
    rates = Rates(RateLimits(default=Rate(requests=rate, burst=burst)))
    assert taken(rates, "shop") == at_once
    assert taken(rates, "other") == at_once
    clock.now += 4 / rate
    assert taken(rates, "shop") == min(4, at_once)
    clock.now += 1e4
    assert taken(rates, "shop") == at_once


def test_over_a_long_time_no_more_than_the_rate_is_let_in(clock: Clock) -> None:
    rates = Rates(RateLimits(default=Rate(requests=100, burst=1)))
    count = 0
    for _ in range(10_000):
        clock.now += 0.001
        count += taken(rates, "shop", most=3)
    assert 1000 <= count <= 1100


def test_a_refusal_says_whom_what_and_when(clock: Clock) -> None:
    rates = Rates(RateLimits(default=Rate(requests=2), endpoints={"fraud": Rate(requests=1)}))
    rates.admit("shop", "fraud")
    with pytest.raises(Overloaded, match="caller shop may ask for 1 requests a second of fraud") as refused:
        rates.admit("shop", "fraud")
    assert refused.value.retry_after == pytest.approx(1.0)
    assert refused.value.reason == "rate_limit"
    rates.admit("shop", "other")
    with pytest.raises(Overloaded, match=r"caller shop may ask for 2 requests a second$") as refused:
        rates.admit("shop", "other")
    clock.now += refused.value.retry_after
    rates.admit("shop", "other")


def test_what_one_limit_refuses_another_does_not_count(clock: Clock) -> None:
    rates = Rates(RateLimits(default=Rate(requests=10), endpoints={"fraud": Rate(requests=1)}))
    assert taken(rates, "shop", "fraud") == 1
    assert taken(rates, "shop", "other") == 9
    clock.now += 1.0
    rates.admit("shop", "fraud")


def test_rows_are_owed_and_paid_off(clock: Clock) -> None:
    rates = Rates(RateLimits(default=Rate(rows=100)))
    rates.admit("shop", "m")
    rates.charge("shop", "", "m", 1000)  # ten seconds' worth
    with pytest.raises(Overloaded, match="100 rows a second") as refused:
        rates.admit("shop", "m")
    assert refused.value.retry_after == pytest.approx(9.01)
    clock.now += 9.0
    with pytest.raises(Overloaded):
        rates.admit("shop", "m")
    clock.now += 0.02
    rates.admit("shop", "m")


def test_callers_have_their_own(clock: Clock) -> None:
    rates = Rates(RateLimits(default=Rate(requests=1), callers={"shop": Rate(requests=50), "free": Rate()}))
    assert taken(rates, "shop") == 50
    assert taken(rates, "free", most=1000) == 1000
    assert taken(rates, "someone") == 1


def test_replicas_share(clock: Clock) -> None:
    rates = Rates(RateLimits(default=Rate(requests=100)))
    assert taken(rates, "known") == 100
    rates.share(4)
    assert taken(rates, "shop") == 25
    clock.now += 10.0
    assert taken(rates, "known") == 25
    rates.share(1)
    clock.now += 10.0
    assert taken(rates, "known") == 100


def test_a_flood_of_callers_takes_bounded_memory_and_the_busy_stay_known(clock: Clock) -> None:
    rates = Rates(RateLimits(default=Rate(requests=1), max_callers=50))
    rates.admit("busy", "m")
    for i in range(1000):
        rates.admit(f"caller {i}", "m")
        clock.now += 1e-5
        with pytest.raises(Overloaded):
            rates.admit("busy", "m")
    assert len(rates._callers) <= 50


def test_addresses_are_counted_only_if_asked_for_and_by_network(clock: Clock) -> None:
    unlimited = Rates(RateLimits(default=Rate(requests=1)))
    for _ in range(100):
        unlimited.admit_address("192.0.2.1")
    rates = Rates(RateLimits(address=Rate(requests=1)))
    rates.admit_address("2001:db8::1")
    for same in ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:0:ffff::"):
        with pytest.raises(Overloaded, match=r"address 2001:db8::/64"):
            rates.admit_address(same)
        with pytest.raises(Overloaded):
            rates.check_address(same)
    rates.check_address("2001:db8:0:1::1")
    rates.admit_address("2001:db8:0:1::1")
    rates.admit_address("192.0.2.1")
    with pytest.raises(Overloaded):
        rates.admit_address("::ffff:192.0.2.1")
    rates.admit("192.0.2.1", "m")  # a caller of that name is another
