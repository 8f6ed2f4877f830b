"""A server in an event loop: listens, loads, serves, and ends in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

import orjson

from tidemill.errors import NotFound, Unavailable
from tidemill.realtime import port_file
from tidemill.realtime.accepting import Seats
from tidemill.realtime.access import logged
from tidemill.realtime.aside.reading import Aside
from tidemill.realtime.endpoint import Endpoints
from tidemill.realtime.http import HttpServer
from tidemill.realtime.models.desired import Desired
from tidemill.realtime.models.keeper import Keeper
from tidemill.realtime.models.local import LocalControl
from tidemill.realtime.models.model import Failures
from tidemill.realtime.models.models import Models
from tidemill.realtime.monitor import Monitor, models_of
from tidemill.realtime.openapi import openapi
from tidemill.realtime.options import ServeOptions
from tidemill.realtime.protocols.grpc.calls import Calls
from tidemill.realtime.protocols.grpc.service import Grpc
from tidemill.realtime.protocols.oip import add_infer
from tidemill.realtime.protocols.oip_models import add_health, add_lists, add_model
from tidemill.realtime.protocols.oip_repository import Repository
from tidemill.realtime.protocols.tfserving import add_tfserving
from tidemill.realtime.request import Request
from tidemill.realtime.routes import Router, document
from tidemill.realtime.security.upkeep import Security, readable_keys
from tidemill.realtime.service import Service, State

if TYPE_CHECKING:
    from tidemill.realtime.management import Management

__all__ = ["Server"]

log = logging.getLogger(__name__)

DOCUMENTS = ("/openapi.json", "/v2", "/v2/health/ready", "/v1/models")

PathLike = str | os.PathLike[str]


class Server:
    """Serves packages in the running event loop."""

    def __init__(self, options: ServeOptions | None = None) -> None:
        """Raises ConfigError for options that contradict each other or a certificate that cannot be read."""
        self.options = options or ServeOptions()
        self.options.check()
        self.service = Service()
        self.monitor = Monitor(self.options.counters_dir)
        self.management: Management | None = None
        self.security = Security(
            self.options.tls, self.options.auth, self.options.rate_limits, self.monitor.counts.error
        )
        self.models = Models(self.options, self._swapped, self.monitor.recorder)
        self._repository = Repository(self.service)
        self._aside = Aside()
        self._routes: dict[str, tuple[object, Router]] = {}
        self._router = self._always = self._new_router()
        self._add_always(self._always)
        handler = logged(self.handle) if self.options.access_log else self.handle
        tls = self.security.tls
        self.grpc = self._new_grpc()
        self.http, self.grpc_http = (
            HttpServer(handler, self.options.http, None if tls is None else tls.newest, self.monitor.counts, self.grpc)
            for _ in range(2)
        )

    def _new_router(self) -> Router:
        return Router(self._missing, self.security.guard, self.monitor.counts.error)

    def _new_grpc(self) -> Grpc:
        options = self.options
        guard = self.security.guard if options.auth is not None or options.rate_limits is not None else None
        calls = Calls(options.http.max_body_bytes, options.access_log, guard, self.monitor.counts.error)
        return Grpc(self.service, calls)

    @property
    def address(self) -> str:
        """HOST:PORT as bound."""
        host = self.options.host
        return f"[{host}]:{self.http.port}" if ":" in host else f"{host}:{self.http.port}"

    @property
    def in_flight(self) -> int:
        """Complete requests without a complete answer, and calls that go on."""
        return self.http.in_flight + self.grpc_http.in_flight

    def handle(self, request: Request) -> None:
        """Answer a request."""
        self._router(request)

    async def listen(self, sock: socket.socket | None = None, seats: Seats | None = None) -> None:
        """Open the port, or one that others share (`seats` tell what they hold): the process is live, and not ready.

        Raises OSError, and ConfigError for a port_file that cannot be written.
        """
        port_file.check(self.options.port_file)
        await self.http.start(self.options.host, self.options.port, sock=sock, seats=seats)
        try:
            if self.options.grpc_port is not None:
                await self.grpc_http.start(self.options.host, self.options.grpc_port)
            self._open_management()
        except OSError:
            await self.close_ports()
            raise
        self.security.start()
        if readable_keys(self.options.host, self.options.tls, self.options.auth):
            log.warning("without TLS, keys and tokens can be read on the network", extra={"host": self.options.host})
        log.info("listening", extra={"address": self.address, **self._grpc_address()})

    def _grpc_address(self) -> dict[str, str]:
        if self.options.grpc_port is None:
            return {}
        return {"grpc_address": f"{self.address.rpartition(':')[0]}:{self.grpc_http.port}"}

    async def close_ports(self) -> None:
        """Close them at once, with every connection."""
        await self._drain(0.0, 0.0)

    async def _drain(self, lame_duck: float, grace: float) -> int:
        return sum(await asyncio.gather(*[one.drain(lame_duck, grace) for one in (self.http, self.grpc_http)]))

    def _open_management(self) -> None:
        options = self.options.management
        if options.port is not None:
            # Half of what a server imports is for this.
            from tidemill.realtime.management import Management

            service = self.service
            self.management = Management(
                options.host,
                options.port,
                self.options.counters_dir or self.monitor.recorder,
                lambda: service.ready,
                lambda: models_of(service),
                auth=self.options.auth,
            )
            self.management.start()

    async def load(self, packages: Sequence[PathLike] = ()) -> None:
        """Verify, load and warm up the packages, those of the options and the repository, then be ready.

        Raises PackageError or ConfigError, naming the file; the port is closed then.
        """
        control = LocalControl(Keeper(self.options, packages), self.models)
        try:
            await control.start()
        except BaseException:
            await self.close_ports()
            raise
        self.service.control = control
        if self.options.repository is not None and self.options.model_control == "poll":
            control.poll(self.options.repository.interval)
        self._ready()

    async def apply(self, desired: Desired) -> Failures:
        """Serve what somebody else has decided on, and be ready. Returns why which version is not served."""
        failures = await self.models.apply(desired)
        # Where nothing of it can be had, whoever decides tries something else, or ends this.
        if self.service.state is State.LOADING and (self.service.endpoints.names or not failures):
            self._ready()
        return failures

    def _ready(self) -> None:
        # What lives as long as the process is not looked at again by the garbage collector.
        gc.collect()
        gc.freeze()
        self.service.state = State.SERVING
        self.monitor.start(self.service, self.http)
        port_file.write(self.options.port_file, self.address)
        log.info("ready", extra={"address": self.address, "models": self.service.endpoints.names})

    def _swapped(self, endpoints: Endpoints) -> None:
        """From now on these answer."""
        self.service.endpoints = endpoints
        for one in endpoints:
            one.rates = self.security.rates
        # What is as it was keeps its routes: the loop must not stand still for those of a hundred models.
        before, self._routes = self._routes, {}
        router = self._new_router()
        router.include(self._always)
        for name in endpoints.names:
            shape = endpoints.shape(name)
            known = before.get(name)
            routes = known[1] if known is not None and known[0] == shape else self._routes_of(endpoints, name)
            self._routes[name] = shape, routes
            router.include(routes)
        add_lists(router, endpoints)
        self._repository.add(router)
        router.add("GET", "/openapi.json", document(cache(partial(_openapi, endpoints))))
        self._router = router
        self.grpc.swapped()

    def _routes_of(self, endpoints: Endpoints, name: str) -> Router:
        router, most = self._new_router(), self.options.http.max_body_bytes
        add_model(router, self.service, endpoints, name)
        add_tfserving(router, self.service, endpoints, name, most, self._aside)
        add_infer(router, endpoints, name, most, self._aside)
        return router

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
        if not self._repository.take(request):
            raise NotFound(f"no such path: {request.path:.200}")

    async def drain(self) -> int:
        """Stop in order: not ready, a lame duck, no new connections, finish, end. Returns the requests cut."""
        self.service.state = State.DRAINING
        log.info("draining", extra={"in_flight": self.in_flight})
        # Calls that have no end of their own would be waited for in vain.
        asyncio.get_running_loop().call_later(self.options.lame_duck, self.grpc.retire)
        cut = await self._drain(self.options.lame_duck, self.options.grace)
        self.close()
        log.info("stopped", extra={"cut": cut})
        return cut

    def close(self) -> None:
        """Fail what still waits, at once."""
        self.security.close()
        self.monitor.close()
        self._aside.close()
        if self.management is not None:
            self.management.close()
        if isinstance(self.service.control, LocalControl):
            self.service.control.close()
        self.models.close()


def _openapi(endpoints: Endpoints) -> bytes:
    """Made when it is first asked for: most servers are swapped more often than read about."""
    return orjson.dumps(openapi(endpoints))
