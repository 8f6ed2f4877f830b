"""What the connections of one server share: its handler, its bounds, the heads it knows, and its counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tidemill.observability.process import ProcessCounters
from tidemill.realtime.head import Head
from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.request import Handler
from tidemill.realtime.vigil import Vigil
from tidemill.realtime.wire import Clock

if TYPE_CHECKING:
    from tidemill.realtime.connection import Connection
    from tidemill.realtime.http2 import Http2Connection
    from tidemill.realtime.http2_stream import H2Stream

__all__ = ["KNOWN_HEAD_BYTES", "Plane"]

# Heads remembered, and how long one may be: bounded memory, forgotten all at once when full.
KNOWN_HEADS = 1024
KNOWN_HEAD_BYTES = 1024
SEEN_HEADS = 4096


class Plane:
    """What the connections of one server share."""

    def __init__(self, handler: Handler, limits: HttpLimits, counts: ProcessCounters | None = None) -> None:
        self.handler = handler
        self.limits = limits
        self.clock = Clock()
        self.vigil = Vigil()
        self.heads: dict[bytes, Head] = {}
        self._once: set[int] = set()
        # Who is called with each HTTP/2 stream that carries gRPC; without it, gRPC is a request like any other.
        self.streams: Callable[[H2Stream], None] | None = None
        self.connections: set[Connection | Http2Connection] = set()
        self.lingering: set[Connection | Http2Connection] = set()
        self.capacity = limits.max_connections
        self.counts = counts or ProcessCounters()
        # Bytes of bodies that are not complete yet, of all connections together.
        self.receiving = 0
        self.draining = False

    def remember(self, raw: bytes, head: Head) -> None:
        """Keep a head that is seen for the second time, for the next request with the same bytes.

        Those that come once only, as with a trace id in each, would fill the memory and the collector's lists in vain.
        """
        mark = hash(raw)
        if mark not in self._once:
            if len(self._once) >= SEEN_HEADS:
                self._once.clear()
            self._once.add(mark)
            return
        if len(self.heads) >= KNOWN_HEADS:
            self.heads.clear()
        self.heads[raw] = head
