"""Serving with replicas: opens their socket, decides what they serve, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from tidemill.config import load_toml
from tidemill.errors import TidemillError, Unavailable
from tidemill.model.manifest import MANIFEST, Manifest
from tidemill.observability import families
from tidemill.observability.logs import log_to_stderr
from tidemill.observability.recorder import Recorder
from tidemill.realtime import port_file
from tidemill.realtime.accepting import Seats
from tidemill.realtime.http import create_listener
from tidemill.realtime.management import Management
from tidemill.realtime.models.desired import Desired
from tidemill.realtime.models.keeper import Keeper
from tidemill.realtime.models.local import LocalControl
from tidemill.realtime.notify import notify
from tidemill.realtime.options import ServeOptions
from tidemill.realtime.replicas.child import Child, Phase
from tidemill.realtime.replicas.choice import choose_balancer
from tidemill.realtime.replicas.envoy import Envoy, installed
from tidemill.realtime.replicas.envoy_config import Backend
from tidemill.realtime.replicas.fleet import PLACES, Fleet
from tidemill.realtime.replicas.messages import Answer, Ask, failed
from tidemill.realtime.replicas.options import ReplicaOptions
from tidemill.realtime.replicas.scaling import Scaling
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["Reread", "Supervisor", "supervise"]

log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Reread = Callable[[], ServeOptions]


class Supervisor:
    """The replicas of one address, in the running event loop."""

    def __init__(self, packages: Sequence[PathLike], options: ServeOptions, reread: Reread | None = None) -> None:
        """`reread` gives how to serve after a SIGHUP; packages are read again in any case.

        Raises ConfigError for options that contradict each other or a port_file that cannot be written, OSError where
        there is no room for its files.
        """
        options.check()
        port_file.check(options.port_file)
        self._options = options
        self._packages = packages
        self._reread = reread
        self._policy = options.replicas or ReplicaOptions()
        self._cores = options.cores or cpu_budget()
        self._began = False
        self._announced = False
        self._control: LocalControl | None = None
        self._turn = asyncio.Lock()
        self._reload_waits = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._envoy: Envoy | None = None
        self._moved = asyncio.Event()
        self._port = options.port
        self._seats = Seats.create(PLACES)
        # Nobody else may enter it, and its path is short enough for sockets.
        self._directory = Path(tempfile.mkdtemp(prefix="tidemill-"))
        self._counters = options.counters_dir or str(self._directory / "counters")
        os.makedirs(self._counters, mode=0o700, exist_ok=True)
        self._recorder = Recorder(self._counters)
        self.fleet = Fleet(self._directory, self._counters, self._seats)
        self.fleet.on_ask = self._asked
        self.fleet.on_change = self._look
        self.fleet.on_desired = self._named

    @property
    def address(self) -> str:
        """HOST:PORT as bound."""
        host = self._options.host
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    async def run(self) -> None:
        """Listen, load, and serve until `drain` or `force`.

        Raises OSError for an address that cannot be had, and what keeps the replicas from serving.
        """
        management = None
        try:
            if self._policy.balancer == "envoy":
                await self._start_envoy()
            else:
                self._listener = self.fleet.listener = create_listener(self._options.host, self._port)
                self._port = self._listener.getsockname()[1]
            log.info("listening", extra={"address": self.address})
            management = self._open_management()
            self._keep(Scaling(self.fleet, self._counters, self._cores, self._recorder).run())
            self._keep(self._begin())
            await self.fleet.keep()
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            if self._control is not None:
                self._control.close()
            if management is not None:
                management.close()
            if self._envoy is not None:
                await self._envoy.stop()
            self._stop_listening()
            os.close(self._seats)
            shutil.rmtree(self._directory, ignore_errors=True)

    def drain(self) -> None:
        """End in order."""
        notify("STOPPING=1")
        log.info("draining", extra={"in_flight": sum(c.report.in_flight for c in self.fleet.of(Phase.READY))})
        if self._envoy is None:
            self.fleet.drain(self._options.lame_duck)
        else:
            self.fleet.unready()
            self._keep(self._drain_envoy(self._envoy))

    async def _drain_envoy(self, envoy: Envoy) -> None:
        """What comes through Envoy is finished before the replicas are told to end."""
        await envoy.drain(self._options.lame_duck, self._options.grace)
        await envoy.stop()
        self.fleet.drain(0.0)

    def force(self) -> None:
        """End at once."""
        log.warning("a second signal: ending at once")
        self.fleet.end()

    def _open_management(self) -> Management | None:
        options = self._options.management
        if options.port is None:
            return None
        fleet = self.fleet

        def ready() -> bool:
            return bool(fleet.of(Phase.READY)) and not fleet.stopping

        def models() -> list[dict[str, object]]:
            able = ready()
            return [{"name": one.name, "version": one.version, "ready": able} for one in fleet.states()]

        management = Management(
            options.host, options.port, self._counters, ready, models, fleet.told, self._options.auth
        )
        management.start()
        return management

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    # -- what stands in front ------------------------------------------------------------------------------

    async def _start_envoy(self) -> None:
        options = msgspec.structs.replace(self._options, port=self._port)
        # Envoy itself needs little where it is worth its cost; replicas have the other cores.
        envoy = Envoy(options, self._directory, threads=max(1, self._cores // 4))
        self._port = await envoy.start()
        self._envoy = envoy
        self._keep(envoy.keep())

    async def _balance(self) -> None:
        """`auto`: now that calls are measured, leave replicas on their socket or put Envoy in front of them."""
        told = [child.ready for child in self.fleet.of(Phase.READY) if child.ready is not None]
        service = max([one.call_seconds for one in told], default=0.0)
        choice = choose_balancer(service, most_replicas=self._policy.most, installed=installed() is not None)
        log.info("balancer", extra={"balancer": choice.balancer, "reason": choice.reason})
        if choice.balancer == "socket":
            return
        self.fleet.listener = None
        await self.fleet.again()
        self.fleet.rolled()
        while self.fleet.outdated:
            self._moved.clear()
            await self._moved.wait()
        self._stop_listening()
        self._listener = None
        await self._start_envoy()
        self._look()

    def _named(self, desired: Desired) -> None:
        """These are about to be served: calls of some must not be made twice."""
        if self._envoy is not None:
            self._envoy.repeat_none_of(unrepeatable(desired))

    def _name_replicas(self, envoy: Envoy) -> None:
        """Those that load can at least say that they do, as long as no other can say anything."""
        fleet = self.fleet
        serving = fleet.of(Phase.READY) or fleet.of(Phase.STARTING)
        leaving = [Backend(path=str(child.path), draining=True) for child in fleet.of(Phase.LEAVING)]
        envoy.name([*(Backend(path=str(child.path)) for child in serving), *leaving])

    # -- what is served ------------------------------------------------------------------------------------

    async def _load(self, options: ServeOptions) -> None:
        """Have replicas serve in this way, in place of as they do now. Raises what keeps them from it."""
        control = LocalControl(Keeper(options, self._packages), self.fleet)
        self.fleet.roll(options)
        await control.start()
        self.fleet.rolled()
        self._control = control
        self._options = options
        self._told(control)
        self._poll()

    def _poll(self) -> None:
        repository = self._options.repository
        if self._control is not None and repository is not None and self._options.model_control == "poll":
            self._control.poll(repository.interval)

    async def _begin(self) -> None:
        try:
            await self._load(self._options)
            if self._policy.balancer == "auto":
                await self._balance()
        except (TidemillError, OSError) as error:
            self.fleet.end(error)
        except Exception as error:
            log.exception("the models could not be loaded")
            self.fleet.end(TidemillError(f"internal error: {type(error).__name__}"))
        else:
            self._began = True
            self._look()

    def reload(self) -> None:
        """Serve what is there now: replicas are replaced one by one. One that waits for its turn is enough."""
        if self._control is not None and not self._reload_waits:
            self._reload_waits = True
            self._keep(self._reload())

    async def _reload(self) -> None:
        async with self._turn:
            self._reload_waits = False
            if self._control is not None:
                self._control.close()
            try:
                options = self._reread() if self._reread else self._options
                options.check()
                if _front(options) != _front(self._options):
                    log.warning("another host, port or balancer takes a restart", extra={"address": self.address})
                await self._load(options)
            except (TidemillError, OSError) as error:
                log.error("the new version is not served; the old one is, as before", extra={"reason": str(error)})
                self.fleet.back()
                self._poll()

    def _asked(self, child: Child, ask: Ask) -> None:
        self._keep(self._change(child, ask))

    async def _change(self, child: Child, ask: Ask) -> None:
        error = None
        try:
            async with self._turn:
                if self._control is None:
                    raise Unavailable("the models are being loaded")
                await self._control.change(ask.change)
                self._told(self._control)
        except (TidemillError, OSError) as found:
            error = failed(found)
        except Exception as defect:
            log.exception("a change could not be made")
            error = failed(TidemillError(f"internal error: {type(defect).__name__}"))
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
        """A replica has become ready, was told to leave, stopped accepting, or is gone."""
        fleet = self.fleet
        self._moved.set()
        if self._envoy is not None:
            self._name_replicas(self._envoy)
        if fleet.stopping and all(child.stopped for child in fleet.children.values()):
            # As long as it is open the kernel would complete connections that nobody takes.
            self._stop_listening()
        for phase in (Phase.STARTING, Phase.READY, Phase.LEAVING):
            self._recorder.values(families.REPLICAS, state=phase.value)[0] = len(fleet.of(phase))
        self._recorder.values(families.REPLICAS_WANTED)[0] = fleet.wanted
        self._recorder.values(families.REPLICA_FAILURES)[0] = fleet.failures
        ready = len(fleet.of(Phase.READY))
        if self._began and not self._announced and ready >= fleet.policy.minimum:
            self._announced = True
            port_file.write(self._options.port_file, self.address)
            log.info("ready", extra={"address": self.address, "replicas": ready})
            notify("READY=1")


def _front(options: ServeOptions) -> tuple[object, ...]:
    """What stands as long as the process does."""
    return options.host, options.port, options.replicas and options.replicas.balancer


def unrepeatable(desired: Desired) -> list[str]:
    """The models whose calls must not be made twice."""
    found = []
    for one in desired.models:
        # A package that cannot be read is not served either.
        with contextlib.suppress(TidemillError):
            if not load_toml(Path(one.directory) / MANIFEST, Manifest).repeatable:
                found.append(one.name)
    return found


def supervise(packages: Sequence[PathLike], options: ServeOptions, reread: Reread | None = None) -> None:
    """Serve with replicas until SIGTERM or SIGINT has been handled in order; a second signal ends it at once.

    SIGHUP rolls the replicas: `reread` gives how they serve from then on. Blocks; belongs on the main thread. Raises
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
