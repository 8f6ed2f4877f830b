"""From a request's target to the function that answers it: exact paths in one table, looked up by the raw bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import orjson

from tidemill.errors import NotFound, TidemillError
from tidemill.realtime.answers import reply_encoded, reply_error
from tidemill.realtime.request import Handler, Request
from tidemill.realtime.security.guard import Guard

__all__ = ["Router", "document", "not_allowed"]


class Router:
    """A table of paths, each behind the `guard` if there is one. What is not in it goes to `otherwise`, which may raise
    a TidemillError. `count` is told the status of each error that is answered here.
    """

    def __init__(
        self,
        otherwise: Callable[[Request], None] | None = None,
        guard: Guard | None = None,
        count: Callable[[int], None] | None = None,
    ) -> None:
        self._targets: dict[bytes, dict[str, Handler]] = {}
        self._otherwise = otherwise
        self._guard = guard
        self._count = count

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Answer a method (GET also answers HEAD) at a path, given without percent-encoding."""
        if self._guard is not None:
            handler = self._guard.route(method, path, handler)
        methods = self._targets.setdefault(path.encode(), {})
        methods[method] = handler
        if method == "GET":
            methods["HEAD"] = handler

    def include(self, other: Router) -> None:
        """Answer what another one does, and as it does."""
        self._targets.update(other._targets)

    def __call__(self, request: Request) -> None:
        methods = self._targets.get(request.target)
        if methods is None:
            # Percent-encoded, or with a query.
            methods = self._targets.get(request.path.encode())
            if methods is None:
                self._missing(request)
                return
        handler = methods.get(request.method)
        if handler is None:
            self._missing(request, methods)
            return
        handler(request)

    def _missing(self, request: Request, methods: Mapping[str, Handler] | None = None) -> None:
        try:
            if self._guard is not None:
                self._guard.require(request)
            if methods is not None:
                not_allowed(request, methods)
                if self._count is not None:
                    self._count(405)
                return
            if self._otherwise is not None:
                self._otherwise(request)
                return
            raise NotFound(f"no such path: {request.path}")
        except TidemillError as error:
            if self._count is not None:
                self._count(error.status)
            reply_error(request, error)


def not_allowed(request: Request, methods: Iterable[str]) -> None:
    """405, with what is allowed."""
    allowed = ", ".join(sorted(methods))
    text = orjson.dumps({"error": f"{request.method} is not allowed at {request.path}: use {allowed}"})
    request.reply(405, text, headers=((b"allow", allowed.encode()),))


def document(body: bytes | Callable[[], bytes]) -> Handler:
    """A handler that answers 200 with this JSON, or with what the function gives at that moment."""

    def reply(request: Request) -> None:
        reply_encoded(request, [body if isinstance(body, bytes) else body()])

    return reply
