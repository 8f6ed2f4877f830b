"""How long model calls take and calls wait, from what was measured: plain arithmetic, no clock and no loop."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tidemill.prediction.profile import Profile

__all__ = ["Pace", "RowLimit", "begins_in"]

# Of a new measurement, what it counts against those before.
WEIGHT = 0.3
# What an AIMD limit loses when a call took too long, and what it gains (of its greatest value) when full ones did not.
LESS = 0.7
MORE = 1 / 32


class Pace:
    """Seconds that calls of a size really take: the profile's, corrected by what calls of about that size took lately.

    The median of three forgets the one call that was held up, and needs two to believe a change.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._recent: dict[int, tuple[float, float]] = {}
        self._ratios: dict[int, float] = {}  # measured ÷ expected, by the size's number of bits
        self._ratio = 1.0  # of whatever size was called last

    def expected(self, rows: int) -> float:
        """Seconds that a call of that many rows is expected to take."""
        return self._profile.cost(rows) * self._ratios.get(rows.bit_length(), self._ratio)

    def took(self, rows: int, seconds: float) -> None:
        """A call of that many rows took so long."""
        size = rows.bit_length()
        ratio = seconds / max(1e-9, self._profile.cost(rows))
        known = self._ratios.get(size, self._ratio)
        before, last = self._recent.get(size, (known, known))
        self._recent[size] = (last, ratio)
        self._ratios[size] = self._ratio = known + WEIGHT * (median((before, last, ratio)) - known)


class RowLimit:
    """How many rows one call may have, so that it is over within `target` seconds: additive increase, multiplicative
    decrease. Never below `least`, the size up to which a call is hardly longer than one of a single row: less would
    cost throughput and win no time.
    """

    def __init__(self, profile: Profile, target: float, most: int) -> None:
        self.target = target
        self._most = most
        self._least = min(most, profile.rows_within(2 * profile.cost(1)))
        self.rows = max(self._least, min(most, profile.rows_within(target)))

    def took(self, rows: int, seconds: float) -> None:
        """A call of that many rows took so long."""
        if seconds > self.target:
            self.rows = max(self._least, min(self.rows, int(rows * LESS)))
        elif self.rows < self._most and rows * 2 > self.rows:
            self.rows = min(self._most, self.rows + max(1, int(self._most * MORE)))


def begins_in(busy: Sequence[float], workers: int, ahead: int, seconds: float) -> float:
    """Seconds until a worker is free for the call behind `ahead` others of so many `seconds` each.

    `busy` are the seconds that the calls that run will still take.
    """
    if workers < 1:
        return float("inf")
    free = sorted([*busy, *[0.0] * (workers - len(busy))])
    return free[ahead % workers] + ahead // workers * seconds
