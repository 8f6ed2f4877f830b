"""Serving with replicas: opens their socket, decides what they serve, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

from tidemill.errors import TidemillError
from tidemill.observability import families
from tidemill.observability.logs import log_to_stderr
from tidemill.observability.recorder import Recorder
from tidemill.realtime.accepting import Seats
from tidemill.realtime.http import create_listener
from tidemill.realtime.management import Management
from tidemill.realtime.models.keeper import Keeper
from tidemill.realtime.models.local import LocalControl
from tidemill.realtime.options import ServeOptions
from tidemill.realtime.replicas.child import Child, Phase
from tidemill.realtime.replicas.fleet import PLACES, Fleet
from tidemill.realtime.replicas.messages import Answer, Ask, failed
from tidemill.realtime.replicas.scaling import Scaling
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["Reread", "Supervisor", "supervise"]

log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Reread = Callable[[], tuple[Sequence[PathLike], ServeOptions]]


class Supervisor:
    """The replicas of one address, in the running event loop."""

    def __init__(self, packages: Sequence[PathLike], options: ServeOptions, reread: Reread | None = None) -> None:
        """`reread` gives what to serve after a SIGHUP; without it, that is the same packages, read again.

        Opens the socket. Raises OSError, and ConfigError for options that contradict each other.
        """
        options.check()
        self._options = options
        self._packages = packages
        self._reread = reread
        self._announced = False
        self._control: LocalControl | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = create_listener(options.host, options.port)
        host, port = options.host, self._listener.getsockname()[1]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._seats = Seats.create(PLACES)
        # Nobody else may enter it, and its path is short enough for sockets.
        self._directory = Path(tempfile.mkdtemp(prefix="tidemill-"))
        self._counters = options.counters_dir or str(self._directory / "counters")
        os.makedirs(self._counters, mode=0o700, exist_ok=True)
        self._recorder = Recorder(self._counters)
        self.fleet = Fleet(self._directory, self._counters, self._listener, self._seats)
        self.fleet.on_ask = self._asked
        self.fleet.on_change = self._look
        log.info("listening", extra={"address": self.address})

    async def run(self) -> None:
        """Load, and serve until `drain` or `force`. Raises what keeps the replicas from serving."""
        loading = asyncio.create_task(self._load(self._packages, self._options))
        loading.add_done_callback(self._loaded)
        cores = self._options.cores or cpu_budget()
        self._keep(Scaling(self.fleet, self._counters, cores, self._recorder).run())
        management = self._open_management()
        try:
            await self.fleet.keep()
        finally:
            for task in (loading, *self._tasks):
                task.cancel()
            if self._control is not None:
                self._control.close()
            if management is not None:
                management.close()
            self._listener.close()
            os.close(self._seats)
            shutil.rmtree(self._directory, ignore_errors=True)

    def _open_management(self) -> Management | None:
        options = self._options.management
        if options.port is None:
            return None
        fleet = self.fleet
        management = Management(
            options.host,
            options.port,
            self._counters,
            lambda: bool(fleet.of(Phase.READY)) and not fleet.stopping,
            lambda: [{"name": one.name, "version": one.version, "ready": True} for one in fleet.states()],
            fleet.told,
            self._options.auth,
        )
        management.start()
        return management

    def drain(self) -> None:
        """End in order."""
        log.info("draining", extra={"in_flight": sum(c.report.in_flight for c in self.fleet.of(Phase.READY))})
        self.fleet.drain()

    def force(self) -> None:
        """End at once."""
        log.warning("a second signal: ending at once")
        self.fleet.end()

    # -- what is served ------------------------------------------------------------------------------------

    async def _load(self, packages: Sequence[PathLike], options: ServeOptions) -> None:
        """Have replicas serve this, in place of what they serve now. Raises what keeps them from it."""
        control = LocalControl(Keeper(options, packages), self.fleet)
        self.fleet.roll(options)
        await control.start()
        if self._control is not None:
            self._control.close()
        self._control = control
        self._packages, self._options = packages, options
        self._told(control)
        if options.repository is not None and options.model_control == "poll":
            control.poll(options.repository.interval)

    def _loaded(self, loading: asyncio.Task[None]) -> None:
        if loading.cancelled():
            return
        error = loading.exception()
        if isinstance(error, TidemillError | OSError):
            self.fleet.end(error)
        elif error is not None:
            log.error("the models could not be loaded", exc_info=error)
            self.fleet.end(TidemillError(f"internal error: {type(error).__name__}"))
        else:
            self._look()

    def reload(self) -> None:
        """Serve what is there now: replicas are replaced one by one."""
        if self._control is not None:
            self._keep(self._reload())

    async def _reload(self) -> None:
        try:
            packages, options = self._reread() if self._reread else (self._packages, self._options)
            options.check()
            if (options.host, options.port) != (self._options.host, self._options.port):
                log.warning("another host or port takes a restart", extra={"address": self.address})
            await self._load(packages, options)
        except (TidemillError, OSError) as error:
            log.error("the new version is not served; the old one is, as before", extra={"reason": str(error)})
            self.fleet.back()

    def _asked(self, child: Child, ask: Ask) -> None:
        self._keep(self._change(child, ask))

    async def _change(self, child: Child, ask: Ask) -> None:
        error = None
        try:
            if self._control is None:
                raise TidemillError("the models are being loaded")
            await self._control.change(ask.change)
            self._told(self._control)
        except (TidemillError, OSError) as found:
            error = failed(found)
        child.send(Answer(turn=ask.turn, error=error))

    def _told(self, control: LocalControl) -> None:
        served = {(one.name, one.version) for one in self.fleet.states()}
        self.fleet.tell([one for one in control.index() if (one.name, one.version) not in served])

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._kept)

    def _kept(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a defect of the supervisor", exc_info=error)

    # -- what replicas do ----------------------------------------------------------------------------------

    def _look(self) -> None:
        """A replica has become ready, stopped accepting, or is gone."""
        fleet = self.fleet
        if fleet.stopping and all(child.stopped for child in fleet.children.values()):
            # As long as it is open the kernel would complete connections that nobody takes.
            self._listener.close()
        for phase in (Phase.STARTING, Phase.READY, Phase.LEAVING):
            self._recorder.values(families.REPLICAS, state=phase.value)[0] = len(fleet.of(phase))
        self._recorder.values(families.REPLICAS_WANTED)[0] = fleet.wanted
        self._recorder.values(families.REPLICA_FAILURES)[0] = fleet.failures
        ready = len(fleet.of(Phase.READY))
        if not self._announced and self._control is not None and ready >= fleet.policy.minimum:
            self._announced = True
            if self._options.port_file is not None:
                path = Path(self._options.port_file)
                part = path.with_name(f".{path.name}.{os.getpid()}")
                part.write_text(self.address + "\n", encoding="utf-8")
                part.rename(path)
            log.info("ready", extra={"address": self.address, "replicas": ready})


def supervise(packages: Sequence[PathLike], options: ServeOptions, reread: Reread | None = None) -> None:
    """Serve with replicas until SIGTERM or SIGINT has been handled in order; a second signal ends it at once.

    SIGHUP rolls the replicas: `reread` gives what they serve from then on. Blocks; belongs on the main thread. Raises
    what keeps a first replica from serving, as the single process does, and OSError for an address that cannot be had.
    """
    log_to_stderr()
    uvloop.run(_supervise(packages, options, reread))


async def _supervise(packages: Sequence[PathLike], options: ServeOptions, reread: Reread | None) -> None:
    loop = asyncio.get_running_loop()
    supervisor = Supervisor(packages, options, reread)

    def on_signal() -> None:
        if supervisor.fleet.stopping:
            supervisor.force()
        else:
            supervisor.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    await supervisor.run()
