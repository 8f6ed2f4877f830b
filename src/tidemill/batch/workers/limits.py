"""What a worker process may do, and what a killed one is held to have done."""

from __future__ import annotations

import signal
from dataclasses import dataclass

__all__ = ["Death", "Limits", "ending"]


@dataclass(frozen=True, slots=True)
class Limits:
    """`call_timeout` in seconds (None: none), `memory` in bytes of a process's own (None: what it has when it is loaded
    and a `share` of what is free then).
    """

    call_timeout: float | None = None
    memory: int | None = None
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class Death:
    """A process ended while it was answering rows `first` to before `last` of a chunk.

    `code` is that of dead letters: `timeout`, `out_of_memory` or `worker_died`. `fresh`: it had answered nothing else.
    """

    code: str
    message: str
    first: int
    last: int
    fresh: bool


def ending(code: int) -> str:
    """How a process ended, in words, by the return code of subprocess."""
    if code >= 0:
        return f"ended itself with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    more = ", as the kernel does where memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{more}"
