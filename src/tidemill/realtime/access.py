"""The access log: one line an answered request, with no feature values, no query and no body."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic

from tidemill.realtime.head import ID_BYTES, REQUEST_ID
from tidemill.realtime.request import JSON, Handler, Header, Request

__all__ = ["logged"]

log = logging.getLogger("tidemill.access")


def logged(handler: Handler) -> Handler:
    """A handler whose requests are logged when they are answered, or when their client leaves before."""
    return lambda request: handler(_Logged(request))


class _Logged(Request):
    """Passes everything on, and looks at what goes back."""

    __slots__ = ("_inner", "_size", "_status")

    def __init__(self, inner: Request) -> None:
        self._inner = inner
        self.method = inner.method
        self.target = inner.target
        self.path = inner.path
        self.query = inner.query
        self.headers = inner.headers
        self.body = inner.body
        self.caller = inner.caller
        self.received_at = inner.received_at
        self._fields = inner._fields
        self.bare = inner.bare
        self.gone = inner.gone
        self.on_gone = None
        self.on_writable = None
        self._status = self._size = 0
        inner.on_gone = self._lost
        inner.on_writable = self._invited

    @property
    def peer(self) -> str:
        return self._inner.peer

    def reply(
        self, status: int, body: bytes | list[bytes], content_type: bytes = JSON, headers: Iterable[Header] = ()
    ) -> None:
        self._inner.reply(status, body, content_type, headers)
        if not self.gone:
            self._size = len(body) if isinstance(body, bytes) else sum(map(len, body))
            self._write(status)

    def start(self, status: int, content_type: bytes, headers: Iterable[Header] = ()) -> None:
        self._inner.start(status, content_type, headers)
        self._status = status

    def write(self, data: bytes) -> None:
        self._inner.write(data)
        self._size += len(data)

    def end(self) -> None:
        self._inner.end()
        if not self.gone:
            self._write(self._status)

    @property
    def writable(self) -> bool:
        return self._inner.writable

    def _lost(self) -> None:
        self.gone = True
        self._write(499)
        if self.on_gone is not None:
            self.on_gone()

    def _invited(self) -> None:
        if self.on_writable is not None:
            self.on_writable()

    def _write(self, status: int) -> None:
        self._inner.on_gone = None
        request_id = self.header(REQUEST_ID)
        log.info(
            "request",
            extra={
                **({} if request_id is None else {"id": request_id[:ID_BYTES].decode("latin-1")}),
                **({"caller": self.caller} if self.caller else {}),
                "method": self.method,
                "path": self.path,
                "status": status,
                "ms": round((monotonic() - self.received_at) * 1e3, 3),
                "request_bytes": len(self.body),
                "response_bytes": self._size,
            },
        )
