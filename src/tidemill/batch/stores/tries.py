"""How often a store is asked: again after a while where that may help, and no more where it cannot."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Disk", "hopeless", "local", "pause", "tries"]

# On top of the few that the library makes by itself: a store that is away for some seconds ends no run.
_TRIES = 7
_PATIENCE = 120.0


class Disk(Exception):
    """The local disk failed, not the store: asking the store again would not help. `cause` is what it said."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextmanager
def local() -> Iterator[None]:
    """Around what touches the local disk while a store is asked. Raises Disk."""
    try:
        yield
    except OSError as error:
        raise Disk(error) from error


def hopeless(error: BaseException) -> bool:
    """Whether asking again can only bring the same answer."""
    from obstore.exceptions import (
        InvalidPathError,
        NotSupportedError,
        PermissionDeniedError,
        UnauthenticatedError,
        UnknownConfigurationKeyError,
    )

    kinds = (
        InvalidPathError,
        NotSupportedError,
        PermissionDeniedError,
        UnauthenticatedError,
        UnknownConfigurationKeyError,
        FileNotFoundError,
        ValueError,  # a key that the library cannot name
    )
    # A listing of a bucket that does not exist.
    return isinstance(error, kinds) or "404 Not Found" in str(error)


def tries() -> Iterator[None]:
    """As often as is worth it; a store that answers only by silence is given up sooner."""
    began = time.monotonic()
    for attempt in range(_TRIES):
        if attempt and time.monotonic() - began > _PATIENCE:
            return
        pause(attempt)
        yield


def pause(attempt: int) -> None:
    """Before the second try a tenth of a second, then twice as long each time, and never two drivers in step."""
    if attempt:
        time.sleep(0.1 * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
