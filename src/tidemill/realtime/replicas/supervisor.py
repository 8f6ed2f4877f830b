"""Keeps replicas serving: opens their socket, starts, watches and replaces them, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import msgspec
import uvloop

from tidemill.errors import TidemillError
from tidemill.observability.logs import log_to_stderr
from tidemill.realtime.accepting import Seats
from tidemill.realtime.http import create_listener
from tidemill.realtime.options import ServeOptions
from tidemill.realtime.replicas.backoff import Backoff
from tidemill.realtime.replicas.child import Child, Phase, told_end
from tidemill.realtime.replicas.machine import free_memory, own_memory
from tidemill.realtime.replicas.messages import Any, Drain, Failed, Ready, Report, Start, Stopped, raised
from tidemill.realtime.replicas.options import ReplicaOptions
from tidemill.realtime.replicas.plan import View, plan
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["Supervisor", "supervise"]

log = logging.getLogger(__name__)

# Seconds between two looks at whether replicas live, and at what there is to do.
LOOK = 1.0
# Places in the memory of one socket.
PLACES = 256
# Starts that fail in a row, with nothing ready, after which there is no point in going on.
GIVE_UP = 5
# Seconds beyond lame duck and grace after which a replica that was told to end is killed.
OVERTIME = 10.0


@dataclass(frozen=True, slots=True)
class Version:
    """What is to be served: a number that grows, and what replicas are told."""

    generation: int
    packages: tuple[str, ...]
    options: ServeOptions


class Supervisor:
    """The replicas of one address, in the running event loop."""

    def __init__(
        self,
        packages: Sequence[str],
        options: ServeOptions,
        reread: Callable[[], tuple[Sequence[str], ServeOptions]] | None = None,
    ) -> None:
        """`reread` gives what to serve after a SIGHUP; without it, that is the same packages, read again.

        Raises ConfigError for options that contradict each other.
        """
        options.check()
        self._policy: ReplicaOptions = options.replicas or ReplicaOptions()
        self._reread = reread
        self.version = Version(1, tuple(packages), options)
        self._previous: Version | None = None
        self.children: dict[int, Child] = {}
        self._numbers = 0
        self._backoff = Backoff()
        self._start_failures = 0
        self._was_ready = False
        self._changed = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listener: socket.socket | None = None
        self._seats = -1
        self._stopping = False
        self._directory = Path()
        """Sockets that are nobody else's, removed at the end."""
        self.wanted = self._policy.minimum

    # -- life ----------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Open the socket that the replicas share. Raises OSError."""
        options = self.version.options
        self._listener = create_listener(options.host, options.port)
        self._seats = Seats.create(PLACES)
        self._directory = Path(tempfile.mkdtemp(prefix="tidemill-"))
        log.info("listening", extra={"address": self.address})

    @property
    def address(self) -> str:
        """HOST:PORT as bound."""
        host = self.version.options.host
        port = self._listener.getsockname()[1] if self._listener is not None else 0
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def run(self) -> None:
        """Keep the replicas until `stop` or `drain`. Raises the error of a replica where none can be started."""
        watch = asyncio.create_task(self._watch())
        try:
            while not self._over.done():
                self._changed.clear()
                if not self._stopping:
                    await self._step()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._changed.wait()
                self._kill_overdue()
            self._over.result()
        finally:
            watch.cancel()
            await self._end()

    def drain(self) -> None:
        """End in order: every replica is not ready, finishes what it has, and ends; `run` returns then."""
        if self._stopping:
            return
        self._stopping = True
        log.info("draining", extra={"in_flight": sum(c.report.in_flight for c in self.children.values())})
        for child in self.children.values():
            self._let_go(child, last=True)
        self._finish_if_empty()

    def force(self) -> None:
        """End at once."""
        log.warning("a second signal: ending at once")
        self._finish(None)

    def reload(self) -> None:
        """Serve what is there now: replicas are replaced one by one."""
        try:
            packages, options = self._reread() if self._reread else (self.version.packages, self.version.options)
            options.check()
        except (TidemillError, OSError) as error:
            log.error("what is to be served cannot be read; nothing is changed", extra={"reason": str(error)})
            return
        if (options.host, options.port) != (self.version.options.host, self.version.options.port):
            log.warning("another host or port takes a restart", extra={"address": self.address})
        self._policy = options.replicas or ReplicaOptions()
        self.wanted = min(max(self.wanted, self._policy.minimum), self._policy.most)
        self._roll(packages, options)

    def _roll(self, packages: Iterable[str], options: ServeOptions) -> None:
        self._previous = self.version
        self.version = Version(self.version.generation + 1, tuple(packages), options)
        self._start_failures = 0
        log.info("rolling", extra={"generation": self.version.generation, "packages": self.version.packages})
        self._changed.set()

    async def _end(self) -> None:
        for child in self.children.values():
            child.kill()
        await asyncio.gather(*(child.gone() for child in list(self.children.values())))
        self._close_listener()
        if self._seats >= 0:
            os.close(self._seats)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _finish(self, error: TidemillError | None) -> None:
        if not self._over.done():
            if error is None:
                self._over.set_result(None)
            else:
                self._over.set_exception(error)
            self._stopping = True
            self._changed.set()

    def _finish_if_empty(self) -> None:
        if self._stopping and not self.children:
            if not self._over.done():
                log.info("stopped")
            self._finish(None)

    # -- replicas ------------------------------------------------------------------------------------------

    async def _step(self) -> None:
        """Start and let go what is due."""
        views = [
            View(
                id=child.number,
                ready=child.phase is Phase.READY,
                current=child.generation == self.version.generation and not child.condemned,
                in_flight=child.report.in_flight,
            )
            for child in self.children.values()
            if child.phase in (Phase.STARTING, Phase.READY)
        ]
        held = monotonic() < self._backoff.until
        todo = plan(views, self.wanted, PLACES if held else self._room())
        for number in todo.retire:
            self._let_go(self.children[number], last=False)
        if not held:
            for _ in range(todo.start):
                await self._start()

    def _room(self) -> int:
        """How many more replicas fit into memory, by what those that serve take."""
        taken = [n for c in self.children.values() if c.phase is Phase.READY and (n := own_memory(c.pid))]
        free = free_memory()
        if not taken or free is None:
            return PLACES
        return max(0, (free - self._policy.autoscaling.memory_reserve) // max(taken))

    async def _start(self) -> None:
        self._numbers += 1
        places = {child.place for child in self.children.values()}
        place = next(p for p in range(PLACES) if p not in places)
        child = Child(self._numbers, place, self.version.generation, self._directory)
        self.children[child.number] = child
        start = Start(packages=self.version.packages, options=self._options())
        log.info("starting", extra={"replica": child.number, "generation": child.generation})
        try:
            await child.start(start, self._listener, self._seats, self._told, self._ended)
        except OSError as error:
            child.failure = Failed(code="OSError", text=f"a replica cannot be started: {error}", exit_code=1)
            self._ended(child, 1)

    def _options(self) -> ServeOptions:
        """What a replica is told of how to serve: its share of the cores, and nothing that is the supervisor's."""
        options = self.version.options
        workers = options.workers or max(1, cpu_budget() // self._policy.most)
        return msgspec.structs.replace(options, port_file=None, replicas=None, workers=workers)

    def _let_go(self, child: Child, last: bool) -> None:
        if child.phase is Phase.LEAVING:
            return
        child.phase = Phase.LEAVING
        options = self.version.options
        child.kill_at = monotonic() + options.lame_duck + options.grace + OVERTIME
        child.send(Drain(last=last))
        log.info("leaving", extra={"replica": child.number, "reason": child.condemned or "not wanted any longer"})

    def _kill_overdue(self) -> None:
        now = monotonic()
        for child in self.children.values():
            if child.phase is Phase.STARTING and now - child.started_at > self._policy.start_timeout:
                text = f"not ready within {self._policy.start_timeout:g} s"
                child.failure = Failed(code="start_timeout", text=text, exit_code=1)
                child.kill()
            elif now > child.kill_at:
                child.kill()

    def _told(self, child: Child, message: Any) -> None:
        if isinstance(message, Report):
            child.report = message
            if message.stuck and child.phase is Phase.READY and not child.condemned:
                self._condemn(child, message.stuck)
        elif isinstance(message, Ready):
            self._became_ready(child, message)
        elif isinstance(message, Failed):
            child.failure = message
        elif isinstance(message, Stopped):
            child.stopped = True
            if self._stopping and all(c.stopped for c in self.children.values()):
                self._close_listener()

    def _became_ready(self, child: Child, message: Ready) -> None:
        child.ready = message
        if child.phase is Phase.STARTING:
            child.phase = Phase.READY
            self._start_failures = 0
            seconds = round(monotonic() - child.started_at, 3)
            log.info("replica ready", extra={"replica": child.number, "seconds": seconds})
        ready = [c for c in self.children.values() if c.phase is Phase.READY]
        if not self._was_ready and len(ready) >= self._policy.minimum:
            self._was_ready = True
            self._announce()
        self._changed.set()

    def _announce(self) -> None:
        options = self.version.options
        if options.port_file is not None:
            path = Path(options.port_file)
            part = path.with_name(f".{path.name}.{os.getpid()}")
            part.write_text(self.address + "\n", encoding="utf-8")
            part.rename(path)
        log.info("ready", extra={"address": self.address, "replicas": len(self.children)})

    def _ended(self, child: Child, code: int) -> None:
        phase = child.phase
        child.forget()
        del self.children[child.number]
        if self._seats >= 0:
            Seats.clear(self._seats, child.place)
        self._changed.set()
        if self._stopping or phase is Phase.LEAVING:
            log.info("replica ended", extra={"replica": child.number, "how": told_end(code)})
            self._finish_if_empty()
            return
        wait = self._backoff.failed(monotonic())
        how = child.failure.text if child.failure is not None else told_end(code)
        log.error(
            "replica failed" if phase is Phase.READY else "replica did not start",
            extra={"replica": child.number, "how": how, "next_try_seconds": round(wait, 3)},
        )
        if phase is Phase.STARTING:
            self._not_started(child, how)

    def _not_started(self, child: Child, how: str) -> None:
        current = [c for c in self.children.values() if c.generation == child.generation and c.phase is Phase.READY]
        if child.generation == self.version.generation and self._previous is not None and not current:
            log.error("the new version does not start; the old one goes on serving", extra={"reason": how})
            self.version, self._previous = self._previous, None
            return
        self._start_failures += 1
        if not self._was_ready and child.failure is not None:
            self._finish(raised(child.failure))
        elif self._start_failures >= GIVE_UP and not any(c.phase is Phase.READY for c in self.children.values()):
            self._finish(TidemillError(f"no replica starts: {self._start_failures} tries failed, the last one: {how}"))

    # -- watching ------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await asyncio.gather(
                *(self._look(child) for child in list(self.children.values()) if child.phase is Phase.READY)
            )

    async def _look(self, child: Child) -> None:
        """Two requests in a row that are not answered: one may be lost where this process itself stood still."""
        if await child.lives(self._policy.liveness_timeout / 2):
            child.silent = 0
            return
        child.silent += 1
        if child.silent > 1 and child.phase is not Phase.ENDED:
            # It holds its connections and serves none of them: their clients are told by its end.
            self._condemn(child, "it does not answer")
            child.kill()

    def _condemn(self, child: Child, reason: str) -> None:
        child.condemned = reason
        log.error("replica to be replaced", extra={"replica": child.number, "reason": reason})
        self._changed.set()


def supervise(
    packages: Sequence[str],
    options: ServeOptions,
    reread: Callable[[], tuple[Sequence[str], ServeOptions]] | None = None,
) -> None:
    """Serve with replicas until SIGTERM or SIGINT has been handled in order; a second signal ends it at once.

    SIGHUP rolls the replicas: `reread` gives what they serve from then on. Blocks; belongs on the main thread. Raises
    what keeps a first replica from serving, as the single process does, and OSError for an address that cannot be had.
    """
    log_to_stderr()
    uvloop.run(_supervise(packages, options, reread))


async def _supervise(
    packages: Sequence[str],
    options: ServeOptions,
    reread: Callable[[], tuple[Sequence[str], ServeOptions]] | None,
) -> None:
    loop = asyncio.get_running_loop()
    supervisor = Supervisor(packages, options, reread)
    told = False

    def on_signal() -> None:
        nonlocal told
        if told:
            supervisor.force()
        else:
            supervisor.drain()
        told = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    await supervisor.listen()
    await supervisor.run()
