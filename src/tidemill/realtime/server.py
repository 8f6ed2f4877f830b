"""A server in an event loop: listens, loads, serves, and ends in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

import orjson

from tidemill.errors import NotFound, Unavailable
from tidemill.model.package import open_package
from tidemill.prediction.batched import BatchLimits
from tidemill.prediction.live import Live
from tidemill.prediction.profile import Profile, measure
from tidemill.realtime.accepting import Seats
from tidemill.realtime.access import logged
from tidemill.realtime.endpoint import Endpoint, Endpoints
from tidemill.realtime.http import HttpServer
from tidemill.realtime.openapi import openapi
from tidemill.realtime.options import ServeOptions
from tidemill.realtime.probe import tried
from tidemill.realtime.protocols.oip import add_infer
from tidemill.realtime.protocols.oip_models import add_health, add_models
from tidemill.realtime.protocols.tfserving import add_tfserving
from tidemill.realtime.request import Request
from tidemill.realtime.routes import Router, document
from tidemill.realtime.security.upkeep import Security, readable_keys
from tidemill.realtime.service import Service, State
from tidemill.rows import Rows
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["Server"]

log = logging.getLogger(__name__)

DOCUMENTS = ("/openapi.json", "/v2", "/v2/health/ready", "/v1/models")

PathLike = str | os.PathLike[str]
T = TypeVar("T")


class Server:
    """Serves packages in the running event loop."""

    def __init__(self, options: ServeOptions | None = None) -> None:
        """Raises ConfigError for options that contradict each other or a certificate that cannot be read."""
        self.options = options or ServeOptions()
        self.options.check()
        self.service = Service()
        self.security = Security(self.options.tls, self.options.auth, self.options.rate_limits)
        self._router = Router(self._missing, self.security.guard)
        self._add_always(self._router)
        handler = logged(self.handle) if self.options.access_log else self.handle
        tls = self.security.tls
        self.http = HttpServer(handler, self.options.http, None if tls is None else tls.context)

    @property
    def address(self) -> str:
        """HOST:PORT as bound."""
        host = self.options.host
        return f"[{host}]:{self.http.port}" if ":" in host else f"{host}:{self.http.port}"

    def handle(self, request: Request) -> None:
        """Answer a request."""
        self._router(request)

    async def listen(self, sock: socket.socket | None = None, seats: Seats | None = None) -> None:
        """Open the port, or one that others share (`seats` tell what they hold): the process is live, and not ready.

        Raises OSError.
        """
        await self.http.start(self.options.host, self.options.port, sock=sock, seats=seats)
        self.security.start()
        if readable_keys(self.options.host, self.options.tls, self.options.auth):
            log.warning("without TLS, keys and tokens can be read on the network", extra={"host": self.options.host})
        log.info("listening", extra={"address": self.address})

    async def load(self, packages: Sequence[PathLike]) -> None:
        """Verify, load and warm up the packages, then be ready.

        Raises PackageError or ConfigError, naming the file; the port is closed then.
        """
        try:
            self._serve(await self._open(packages))
        except BaseException:
            await self.http.drain(0.0, 0.0)
            raise

    async def _open(self, packages: Sequence[PathLike]) -> Endpoints:
        loop = asyncio.get_running_loop()
        endpoints = []
        for directory in packages:
            live, profile, example, failure = await _on_daemon(partial(_open, directory))
            # Threads that wait for the interpreter's lock only keep calls from being merged.
            workers = self.options.workers or (cpu_budget() if live.runtime.releases_gil else 1)
            batching = BatchLimits(max_queue_rows=self.options.max_queue_rows, workers=workers)
            endpoints.append(Endpoint(live, profile, example, batching, self.options.requests, loop))
            cost = {str(n): round(s * 1e6, 1) for n, s in zip(profile.sizes, profile.seconds, strict=True)}
            log.info("loaded", extra={"model": live.package.name, "version": live.package.version, "call_us": cost})
            if failure is not None and example is not None:
                endpoints[-1].unable(failure)
            elif failure is not None:
                log.warning("the model could not be tried", extra={"model": live.package.name, "reason": failure})
        return Endpoints(endpoints)

    def _serve(self, endpoints: Endpoints) -> None:
        self.service.endpoints = endpoints
        router = Router(self._missing, self.security.guard)
        self._add_always(router)
        add_models(router, self.service)
        add_tfserving(router, self.service, self.options.http.max_body_bytes)
        add_infer(router, self.service, self.options.http.max_body_bytes)
        router.add("GET", "/openapi.json", document(orjson.dumps(openapi(self.service.endpoints))))
        self._router = router
        # What lives as long as the process is not looked at again by the garbage collector.
        gc.collect()
        gc.freeze()
        self.service.state = State.SERVING
        if self.options.port_file is not None:
            _write_whole(Path(self.options.port_file), self.address + "\n")
        log.info("ready", extra={"address": self.address, "models": self.service.endpoints.names})

    def _add_always(self, router: Router) -> None:
        """What is answered from the first moment on."""
        add_health(router, self.service)
        router.add("GET", "/", document(self._index))

    def _index(self) -> bytes:
        models = [{"name": e.name, "version": e.version} for e in self.service.endpoints]
        return orjson.dumps(
            {"server": "tidemill", "state": self.service.state.value, "models": models, "documents": DOCUMENTS}
        )

    def _missing(self, request: Request) -> None:
        parts = request.path.strip("/").split("/")
        if self.service.state is State.LOADING:
            raise Unavailable("the models are being loaded", retry_after=1.0)
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            version = parts[4] if len(parts) > 4 and parts[3] == "versions" else None
            self.service.endpoints.find(parts[2], version)
        if parts[:2] == ["v1", "models"] and len(parts) > 2:
            name, version = parts[2], parts[4] if len(parts) > 4 and parts[3] == "versions" else None
            self.service.endpoints.find(name.partition(":")[0], version and version.partition(":")[0])
        raise NotFound(f"no such path: {request.path:.200}")

    async def drain(self) -> int:
        """Stop in order: not ready, a lame duck, no new connections, finish, end. Returns the requests cut."""
        self.service.state = State.DRAINING
        log.info("draining", extra={"in_flight": self.http.in_flight})
        cut = await self.http.drain(self.options.lame_duck, self.options.grace)
        self.close()
        log.info("stopped", extra={"cut": cut})
        return cut

    def close(self) -> None:
        """Fail what still waits, at once."""
        self.security.close()
        for one in self.service.endpoints:
            one.close()


async def _on_daemon(function: Callable[[], T]) -> T:
    """Call on a thread of its own that may be left behind: a model that never loads must not keep the process."""
    future: Future[T] = Future()

    def work() -> None:
        future.set_running_or_notify_cancel()
        try:
            found = function()
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            future.set_exception(error)
        else:
            future.set_result(found)

    threading.Thread(target=work, name="load", daemon=True).start()
    return await asyncio.wrap_future(future)


def _open(directory: PathLike) -> tuple[Live, Profile, Rows | None, str | None]:
    live = Live.open(open_package(directory))
    return live, measure(live), *tried(live)


def _write_whole(path: Path, text: str) -> None:
    """A reader sees the whole text or no file."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.rename(path)
