"""A short wait without sleep after each activity: the next request finds the core awake and its caches warm."""

from __future__ import annotations

import asyncio
import os
from time import monotonic

__all__ = ["Vigil"]

# Seconds from the last bytes: an answer, and a client that is near and asks again at once.
VIGIL = 0.0002
# After so many vigils in which nobody came, only one in so many activities begins another.
FRUITLESS = 8
TRIED = 16


class Vigil:
    """Keeps the event loop turning for `VIGIL` after bytes came, as long as that is mostly not in vain.

    Other programs get the core if they want it. Connections call `stir` when `stirred` is false: one look a read,
    and one turn of the loop for all that came in it. `kept`: it lasts.
    """

    __slots__ = ("_fruitless", "_loop", "_passed", "_until", "kept", "stirred")

    def __init__(self) -> None:
        self.stirred = False
        self.kept = False
        self._until = 0.0
        self._fruitless = 0
        self._passed = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def stir(self) -> None:
        """Bytes have come."""
        if self.kept:
            self.stirred = True
            self._fruitless = 0
            return
        if self._fruitless >= FRUITLESS:
            self._passed += 1
            if self._passed % TRIED:
                return
        self.stirred = self.kept = True
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._turn, self._loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.stirred:
            self.stirred = False
            self._until = monotonic() + VIGIL
        elif monotonic() < self._until:
            os.sched_yield()
        else:
            self.kept = False
            self._fruitless += 1
            return
        loop.call_soon(self._turn, loop)
