"""The management port: metrics, health and what is served, for operators. Never on the port that answers requests.

It has a thread and an event loop of its own, so that nobody who asks here, or asks and does not read, holds up an
inference.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidemill.observability.exposition import render
from tidemill.observability.recorder import Recorder
from tidemill.realtime.security.gate import Gate
from tidemill.realtime.security.options import AuthOptions

__all__ = ["Management"]

log = logging.getLogger(__name__)

JSON = "application/json"
# A connection brings one request, and has so many seconds from its first byte to the last of its answer.
PATIENCE = 10.0
MOST = 64


class Management:
    """Answers on the management port, from a thread. What it is given is called there, and must bear that.

    `port` 0 takes any free one. `source` is where the counters are: a directory of several processes, or the recorder
    of this one. `models` and `replicas` give what is to be told as JSON; without `replicas` there is no such page.
    With `auth` callers are asked for as on the data port.
    """

    def __init__(
        self,
        host: str,
        port: int,
        source: Recorder | str | os.PathLike[str],
        ready: Callable[[], bool],
        models: Callable[[], Any],
        replicas: Callable[[], Any] | None = None,
        auth: AuthOptions | None = None,
    ) -> None:
        """Raises ConfigError for a file of keys that is not right, MissingExtra."""
        self._host = host
        self.port = port
        self._source = source
        self._ready = ready
        pages = {"/models": models}
        if replicas is not None:
            pages["/replicas"] = replicas
        self._pages = pages
        self._asgi: Any = self._app() if auth is None else Gate(self._app(), auth)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen and answer; `port` is the one that was bound. Raises OSError."""
        host = self._host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, self.port), family=family)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._asgi,
            loop="asyncio",
            http=_Hurried,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            headers=[("connection", "close")],
            timeout_graceful_shutdown=1,
        )
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="management", daemon=True
        )
        self._thread.start()
        shown = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        log.info("management", extra={"address": shown})

    def close(self) -> None:
        """End within about a second."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(PATIENCE)

    def _app(self) -> Starlette:
        routes = [
            Route("/", self._index),
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthz),
            Route("/ready", self._told_ready),
        ]
        routes += [Route(path, _page(give)) for path, give in self._pages.items()]
        return Starlette(routes=routes)

    async def _index(self, _: Request) -> Response:
        paths = ["/metrics", "/healthz", "/ready", *self._pages]
        return Response(orjson.dumps({"server": "tidemill", "documents": paths}), media_type=JSON)

    async def _metrics(self, request: Request) -> Response:
        page, content_type = render(self._source, request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type, "cache-control": "no-store"})

    async def _healthz(self, _: Request) -> Response:
        return Response(b'{"live":true}', media_type=JSON)

    async def _told_ready(self, _: Request) -> Response:
        ready = self._ready()
        return Response(orjson.dumps({"ready": ready}), 200 if ready else 503, media_type=JSON)


def _page(give: Callable[[], Any]) -> Callable[[Request], Any]:
    async def page(_: Request) -> Response:
        return Response(orjson.dumps(give()), media_type=JSON)

    return page


class _Hurried(HttpToolsProtocol):
    """A connection that is cut when its time is over, and at once where there are too many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.abort()
        else:
            self._end = self.loop.call_later(PATIENCE, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if hasattr(self, "_end"):
            self._end.cancel()
