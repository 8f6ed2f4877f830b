"""What fails for a moment: the model says so by raising Transient, and its call is made again after a while."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["again", "backoff"]

_FIRST = 0.2
_LONGEST = 30.0


def backoff(tries: int) -> float:
    """Seconds to wait after so many tries: doubled with each, half of them by chance, so that those who failed together
    do not come again together.
    """
    most = min(_LONGEST, _FIRST * 2.0 ** (tries - 1))
    return most / 2 + random.random() * most / 2  # noqa: S311 - chance, not secrecy


def again(tries: int, wait: Callable[[float], bool]) -> Callable[[int], bool]:
    """`Live.again`: a call is made `tries` times. `wait` waits so many seconds; what it says is whether to give up."""
    return lambda failed: failed < tries and not wait(backoff(failed))
