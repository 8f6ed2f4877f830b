"""When what keeps failing is tried again."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """At once after the first failure; then `first` seconds, and twice as long after each further one, up to `most`.

    Each time is cut by a random half at most, so that what failed together is not tried together. Failures that lie
    more than `stable` seconds back are forgotten.
    """

    def __init__(self, first: float = 0.5, most: float = 30.0, stable: float = 60.0) -> None:
        self.failures = 0
        self.until = 0.0
        self._first, self._most, self._stable = first, most, stable
        self._failed_at = 0.0

    def failed(self, now: float) -> float:
        """Something failed now. Returns the seconds until the next try."""
        if now - self._failed_at > self._stable:
            self.failures = 0
        self._failed_at = now
        self.failures += 1
        wait = 0.0 if self.failures == 1 else min(self._most, self._first * 2.0 ** min(64, self.failures - 2))
        wait *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, hides nothing
        self.until = now + wait
        return wait
