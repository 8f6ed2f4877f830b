"""A replica as its supervisor sees it: a process, a channel to it, and how to ask whether it lives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from time import monotonic

import msgspec

from tidemill.realtime.models.desired import Desired
from tidemill.realtime.options import ManagementOptions, ServeOptions
from tidemill.realtime.replicas.messages import Any, Applied, Channel, Failed, Ready, Report, Start
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["Child", "Phase", "options_of_one", "told_end"]

PROGRAM = "tidemill.realtime.replicas.replica"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: replica\r\nconnection: close\r\n\r\n"
BACKLOG = 1024


class Phase(Enum):
    """A replica's life, in order."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    ENDED = "ended"


class Child:
    """One replica. `number` is never used again; `place` is its place among those of the socket."""

    def __init__(self, number: int, place: int, generation: int, desired: Desired, directory: Path) -> None:
        self.number = number
        self.place = place
        self.generation = generation
        self.desired = desired
        """What it was last told to serve."""
        self.applied: asyncio.Future[Applied | None] | None = None
        """Its answer to that; None if it is gone."""
        self.phase = Phase.STARTING
        self.path = directory / f"replica-{number}.sock"
        self.started_at = monotonic()
        self.stopped = False
        """It accepts no more."""
        self.ready: Ready | None = None
        self.report = Report(in_flight=0.0, connections=0, cpu_seconds=0.0)
        self.failure: Failed | None = None
        self.condemned = ""
        """Why it is to be replaced."""
        self.kill_at = float("inf")
        self.sound_at = float("inf")
        """When its models last answered their own samples; never, for one that began without."""
        self.silent = 0
        """Requests for its life that were not answered, in a row."""
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._waiter: asyncio.Task[None] | None = None

    async def start(
        self,
        start: Start,
        public: socket.socket | None,
        seats: int,
        told: Callable[[Child, Any], None],
        ended: Callable[[Child, int], None],
    ) -> None:
        """Start the program and tell it what to serve; `told` gets what it says, `ended` its exit code.

        Raises OSError.
        """
        ours, theirs = socket.socketpair()
        with theirs, socket.socket(socket.AF_UNIX) as private:
            private.bind(str(self.path))
            private.listen(BACKLOG)
            fds = [-1 if public is None else public.fileno(), private.fileno(), theirs.fileno(), seats]
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", PROGRAM, str(self.number), *map(str, fds), str(self.place)),
                stdin=DEVNULL,
                pass_fds=[fd for fd in fds if fd >= 0],
                start_new_session=True,
            )
        self._channel = await Channel.open(ours, lambda message: told(self, message), self._lost)
        self.send(start)

        async def wait(process: Process) -> None:
            ended(self, await process.wait())

        self._waiter = asyncio.create_task(wait(self._process))

    def _lost(self) -> None:
        """Nobody can tell it anything any more."""
        if self.phase is not Phase.LEAVING:
            self.kill()

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def send(self, message: Any) -> None:
        """Tell it something; nothing happens if it is gone."""
        if self._channel is not None:
            self._channel.send(message)

    def kill(self) -> None:
        """End it now, whatever it does."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def told(self) -> dict[str, object]:
        """What operators are told of it."""
        return {
            "replica": self.number,
            "pid": self.pid,
            "state": self.phase.value,
            "generation": self.generation,
            "connections": self.report.connections,
            "in_flight": self.report.in_flight,
            "cpu_seconds": round(self.report.cpu_seconds, 3),
            "to_be_replaced": self.condemned,
        }

    async def gone(self) -> None:
        """Wait until it has ended."""
        if self._waiter is not None:
            await self._waiter

    def forget(self) -> None:
        """It has ended: leave nothing of it."""
        self.phase = Phase.ENDED
        if self.applied is not None and not self.applied.done():
            self.applied.set_result(None)
        if self._channel is not None:
            self._channel.close()
        self.path.unlink(missing_ok=True)

    async def lives(self, patience: float) -> bool:
        """Whether it answers a request within so many seconds."""
        try:
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_unix_connection(self.path)
                try:
                    writer.write(LIVE)
                    return b" 200 " in await reader.readline()
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError):
            return False


def options_of_one(options: ServeOptions, replicas: int, counters: str, shares: bool) -> ServeOptions:
    """How one of so many replicas serves: with its share of the cores, and without what is the supervisor's.

    `shares`: it accepts from the public socket itself; otherwise who does is a balancer, and TLS is its, too.
    """
    return msgspec.structs.replace(
        options,
        port_file=None,
        replicas=None,
        repository=None,
        model_control="none",
        management=ManagementOptions(),
        counters_dir=counters,
        cores=max(1, (options.cores or cpu_budget()) // replicas),
        **({} if shares else {"host": "127.0.0.1", "tls": None}),
    )


def told_end(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
