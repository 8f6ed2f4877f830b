"""Accepting from a listening socket that several processes share, so that their connections are even in number.

Every process is woken by a new connection. Whoever takes all it can get leaves the others idle: so one is taken a turn
of the loop, and who holds more than another gives that one a moment to take it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import mmap
import os
import socket
from collections.abc import Callable
from time import monotonic

__all__ = ["Acceptor", "Seats"]

log = logging.getLogger(__name__)

# Seconds that a process with more connections leaves a new one to the others. After so many in a row that nobody took
# it does so no more for a while: a process that hangs must not slow down the rest.
COURTESY = 0.002
UNTAKEN = 8
DISTRUST = 0.5
# Seconds until the next try where the process may open no more files.
EXHAUSTED = 0.1
WORD = 8


class Seats:
    """How many connections each process of one socket holds, in memory that they share."""

    def __init__(self, fd: int, mine: int) -> None:
        """`fd` of `Seats.create`; `mine` is this process's place in it, not accepting until `hold` is called."""
        self._mine = mine
        self._held = memoryview(mmap.mmap(fd, 0)).cast("q")
        self._others = [place for place in range(len(self._held)) if place != mine]

    @staticmethod
    def create(places: int) -> int:
        """A file of memory for so many processes; the caller closes it."""
        fd = os.memfd_create("tidemill-seats")
        os.ftruncate(fd, places * WORD)
        return fd

    @staticmethod
    def clear(fd: int, place: int) -> None:
        """The process of this place is gone, or hangs: nobody waits for it."""
        os.pwrite(fd, bytes(WORD), place * WORD)

    def hold(self, connections: int) -> None:
        """Accepting, and holding so many."""
        self._held[self._mine] = connections + 1

    def leave(self) -> None:
        """Not accepting."""
        self._held[self._mine] = 0

    @property
    def others(self) -> bool:
        """Whether another process is accepting."""
        return any(self._held[place] for place in self._others)

    @property
    def fewest(self) -> bool:
        """Whether no accepting process holds fewer connections than this one."""
        held = self._held
        mine = held[self._mine]
        return not any(0 < held[place] < mine for place in self._others)

    @property
    def surplus(self) -> int:
        """Connections that this process holds above its share of all, if they are a quarter of it or more; else 0."""
        held = [self._held[place] - 1 for place in self._others if self._held[place]]
        mine = self._held[self._mine] - 1
        if not held or mine < 0:
            return 0
        share = math.ceil((sum(held) + mine) / (len(held) + 1))
        return mine - share if mine - share >= max(2, share / 4) else 0


class Acceptor:
    """Takes connections from a listening socket, one a turn of the running loop, and hands them to `take`."""

    def __init__(
        self,
        sock: socket.socket,
        take: Callable[[socket.socket], None],
        holding: Callable[[], int],
        seats: Seats | None = None,
    ) -> None:
        """`holding` says how many connections are open. The socket is closed by `close`."""
        self._sock = sock
        self._take = take
        self._holding = holding
        self._seats = seats
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._untaken = 0
        self._patient_from = 0.0
        self._paused = True
        self.resume()

    def pause(self) -> None:
        """Take no more until `resume`; what comes is left to the others."""
        if not self._paused:
            self._paused = True
            self._listen(False)
            if self._seats is not None:
                self._seats.leave()

    def resume(self) -> None:
        """Take connections again."""
        if self._paused:
            self._paused = False
            self.tell()
            self._listen(True)

    def tell(self) -> None:
        """Let the others know how many connections are held now."""
        if self._seats is not None and not self._paused:
            self._seats.hold(self._holding())

    def close(self) -> socket.socket:
        """Take no more. Returns the socket, whose queue is the caller's to empty and close."""
        self.pause()
        return self._sock

    def _listen(self, wanted: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wanted:
            self._loop.add_reader(self._sock.fileno(), self._invited)
        else:
            self._loop.remove_reader(self._sock.fileno())

    def _invited(self) -> None:
        self.tell()
        if self._seats is None or self._seats.fewest or monotonic() < self._patient_from:
            self._accept()
        else:
            self._later(COURTESY)

    def _later(self, seconds: float) -> None:
        self._listen(False)
        self._timer = self._loop.call_later(seconds, self._insist)

    def _insist(self) -> None:
        self._listen(True)
        self._untaken = self._untaken + 1 if self._accept() else 0
        if self._untaken >= UNTAKEN:
            self._untaken = 0
            self._patient_from = monotonic() + DISTRUST

    def _accept(self) -> bool:
        try:
            sock = self._sock.accept()[0]
        except (BlockingIOError, InterruptedError, ConnectionError):
            return False
        except OSError as error:
            # The client waits in the kernel's queue meanwhile, for this process or another.
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            log.warning("no connection can be accepted: %s", error.strerror)
            self._later(EXHAUSTED)
            return False
        self._take(sock)
        self.tell()
        return True
