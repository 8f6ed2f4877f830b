"""The gate of the management port, as ASGI middleware: the same callers as on the data port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any

import orjson

from tidemill.errors import TidemillError
from tidemill.realtime.answers import error_headers
from tidemill.realtime.security.guard import Guard
from tidemill.realtime.security.options import AuthOptions
from tidemill.realtime.security.scopes import Need

__all__ = ["Gate"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOK = 1.0  # seconds between two looks at the keys
NEEDS = {
    "/healthz": Need("read", open_as="health"),
    "/ready": Need("read", open_as="health"),
    "/metrics": Need("read", open_as="metrics"),
}


class Gate:
    """Health and metrics as `open` says, or to whoever may read; the rest to whoever may administer."""

    def __init__(self, app: App, auth: AuthOptions) -> None:
        """Raises ConfigError for a file of keys that is not right, MissingExtra."""
        self._app = app
        self._guard = Guard(auth, None)
        self._looked = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            now = monotonic()
            if now - self._looked > LOOK:
                self._looked = now
                self._guard.tick()
            client = scope.get("client")
            try:
                self._guard.enter(
                    NEEDS.get(scope["path"], Need.of("admin")),
                    _header(scope, b"authorization"),
                    _header(scope, b"x-api-key"),
                    "",
                    client[0] if client else "",
                )
            except TidemillError as error:
                await _tell(send, error)
                return
        await self._app(scope, receive, send)


def _header(scope: Scope, name: bytes) -> bytes | None:
    found = [value for key, value in scope["headers"] if key == name]
    return b", ".join(found) if found else None


async def _tell(send: Send, error: TidemillError) -> None:
    headers = [(b"content-type", b"application/json"), *error_headers(error)]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps({"error": str(error)})})
