"""The HTTP data plane: a listening socket, its connections, one sweep a second, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import logging
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from time import monotonic

from tidemill.observability.process import ProcessCounters
from tidemill.realtime.accepting import Acceptor, Seats
from tidemill.realtime.connection import Connection
from tidemill.realtime.http2 import Http2Connection
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.plane import Plane
from tidemill.realtime.request import JSON, Handler, Request

__all__ = ["JSON", "Handler", "HttpLimits", "HttpServer", "Request", "create_listener", "stop_handshakes"]

log = logging.getLogger(__name__)

BACKLOG = 4096
# Files a process needs besides the connections it serves: those that are closing, and its own.
SPARE_FILES = 512
SWEEP = 1.0
# Seconds; the sweep keeps time while a TLS connection ends: a large last answer may take longer than any fixed time.
UNTIMED = 86_400.0
SWEPT_AT_ONCE = 200
# Seconds that a handshake which has begun has left to be completed once no other may begin.
HANDSHAKE = 0.05
# Of <asm-generic/socket.h>; the socket module does not name it.
SO_ATTACH_FILTER = 26
# Of <linux/bpf_common.h>: load the byte at k, and with k, jump if equal to k, return k.
BPF_LOAD, BPF_AND, BPF_JUMP, BPF_RETURN = 0x30, 0x54, 0x15, 0x06
# Of a TCP header: where the flags are, and those that a first packet has and has not.
TCP_FLAGS, TCP_SYN, TCP_ACK = 13, 0x02, 0x10
WHOLE = 0xFFFFFFFF
DROP_SYN = (
    (BPF_LOAD, 0, 0, TCP_FLAGS),
    (BPF_AND, 0, 0, TCP_SYN | TCP_ACK),
    (BPF_JUMP, 0, 1, TCP_SYN),
    (BPF_RETURN, 0, 0, 0),
    (BPF_RETURN, 0, 0, WHOLE),
)


class HttpServer:
    """Serves HTTP/1.1 and HTTP/2 on one socket of the running event loop."""

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits | None = None,
        ssl_context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        counts: ProcessCounters | None = None,
        streams: Callable[[H2Stream], None] | None = None,
    ) -> None:
        """`handler` is called in the event loop with each complete request; it answers it then or later.

        `ssl_context` may be a function that gives the one for the next handshake.
        `streams` is called with each HTTP/2 stream that carries gRPC, once its headers are complete.
        """
        self.limits = limits or HttpLimits()
        self._plane = Plane(handler, self.limits, counts)
        self._plane.streams = streams
        self._ssl = (lambda: ssl_context) if isinstance(ssl_context, ssl.SSLContext) else ssl_context
        self._server: asyncio.Server | None = None
        self._twin: socket.socket | None = None
        self.acceptor: Acceptor | None = None
        self.leaves_queue = False
        """Whether others go on accepting from the socket: then what waits in its queue is left to them."""
        self._moving: set[Connection | Http2Connection] = set()
        self.on_stopped: Callable[[], None] | None = None
        """Called once nothing more is accepted."""
        # In the order in which they began.
        self._handshakes: dict[asyncio.Task[object], None] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._port = 0

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        seats: Seats | None = None,
    ) -> None:
        """Listen on `host` and `port` (0: any free one), or on a listening socket that other processes may share.

        Of a socket that is passed a copy is taken; `seats` tell what the others hold. Raises OSError.
        """
        self._plane.capacity = _capacity(self.limits.max_connections)
        if sock is not None or self._ssl is not None:
            self.leaves_queue = sock is not None
            sock = create_listener(host, port) if sock is None else sock.dup()
            sock.setblocking(False)
            self._port = 0 if sock.family == socket.AF_UNIX else sock.getsockname()[1]
            # Here rather than in the loop's own server, because handshakes in progress are counted.
            self.acceptor = Acceptor(
                sock, self._take, lambda: len(self._plane.connections) + len(self._handshakes), seats
            )
        else:
            sock = create_listener(host, port)
            # The twin keeps the kernel's queue of new connections when the listener closes: they are not reset.
            self._twin = sock.dup()
            self._port = sock.getsockname()[1]
            self._server = await self._loop.create_server(self._connection, sock=sock, backlog=BACKLOG)
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._port

    @property
    def connections(self) -> int:
        """Connections open now, those that are closing included."""
        return len(self._plane.connections) + len(self._plane.lingering)

    @property
    def accepted(self) -> int:
        """Connections taken since the start, those refused included."""
        return int(sum(place[0] for place in self._plane.counts.accepted.values()))

    @property
    def refused(self) -> int:
        """Connections answered 503 because the server held its limit."""
        return int(self._plane.counts.refused[0])

    @property
    def in_flight(self) -> int:
        """Complete requests without a complete answer."""
        return sum(connection.outstanding for connection in tuple(self._plane.connections))

    def shed(self, many: int) -> None:
        """Have so many clients that ask now open another connection, which others may take. No request is lost.

        Called several times a second for as long as there are too many.
        """
        connections = self._plane.connections
        self._moving &= connections
        if len(self._moving) < many:
            asking = (one for one in connections - self._moving if one.outstanding and one.movable)
            self._moving.update(itertools.islice(asking, many - len(self._moving)))
        now = monotonic()
        for one in tuple(self._moving):
            one.move(now)

    async def drain(self, lame_duck: float, grace: float) -> int:
        """Stop without losing an accepted request. Times are seconds. Returns how many requests were cut.

        For `lame_duck` everything is served, but answers say `Connection: close`. Then nothing new is accepted,
        idle connections close, and what is in flight has `grace` to finish.
        """
        plane = self._plane
        plane.draining = True
        for connection in plane.connections:
            connection.warn()
        await asyncio.sleep(lame_duck)
        deadline = monotonic() + grace
        await self._stop_accepting(grace)
        while (plane.connections or plane.lingering) and (now := monotonic()) < deadline:
            for connection in tuple(plane.connections):
                connection.retire(now)
            await asyncio.sleep(0.01)
        cut = sum(connection.cut() for connection in (*plane.connections, *plane.lingering))
        if self._sweeper is not None:
            self._sweeper.cancel()
        return cut

    async def _stop_accepting(self, patience: float) -> None:
        """Close the listener, but first take every connection that the kernel has completed for it.

        What waits on a socket that others go on accepting from is left to them.
        """
        if self.acceptor is not None:
            queue, self.acceptor = self.acceptor.close(), None
        elif self._server is not None and self._twin is not None:
            self._server.close()
            queue, self._server = self._twin, None
        else:
            return
        with queue:
            if not self.leaves_queue:
                stop_handshakes(queue)
                self._empty(queue)
                await asyncio.sleep(HANDSHAKE)
                self._empty(queue)
        if self.on_stopped is not None:
            self.on_stopped()
        if self._handshakes:
            await asyncio.wait(self._handshakes, timeout=patience)

    def _empty(self, queue: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(queue.accept()[0])

    def _take(self, sock: socket.socket) -> None:
        task: asyncio.Task[object] = self._loop.create_task(self._welcome(sock))
        self._handshakes[task] = None
        task.add_done_callback(self._shaken)
        if len(self._handshakes) > self.limits.max_handshakes and self._ssl is not None and self.acceptor is not None:
            # A client that means it is done in a few round trips: the oldest is the likeliest never to be.
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()

    def _shaken(self, task: asyncio.Task[object]) -> None:
        self._handshakes.pop(task, None)

    async def _welcome(self, sock: socket.socket) -> None:
        # A handshake that fails is the client's business.
        with contextlib.suppress(OSError):
            if self._ssl is None:
                await self._loop.connect_accepted_socket(self._connection, sock)
            else:
                await self._loop.connect_accepted_socket(
                    self._connection,
                    sock,
                    ssl=self._ssl(),
                    ssl_handshake_timeout=self.limits.header_timeout,
                    ssl_shutdown_timeout=UNTIMED,
                )

    def _connection(self) -> Connection:
        return Connection(self._plane)

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)
        if self.acceptor is not None:
            self.acceptor.tell()
        plane = self._plane
        plane.clock.tick()
        self._sweep_some(iter((*plane.connections, *plane.lingering)))

    def _sweep_some(self, connections: Iterator[Connection | Http2Connection]) -> None:
        """A few at a time: ten thousand at once would hold up every request for ten milliseconds."""
        now = monotonic()
        some = tuple(itertools.islice(connections, SWEPT_AT_ONCE))
        for connection in some:
            connection.sweep(now)
        if some:
            self._loop.call_soon(self._sweep_some, connections)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()


def create_listener(host: str, port: int) -> socket.socket:
    """A listening socket, not blocking. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
    sock.setblocking(False)
    return sock


def _capacity(wanted: int) -> int:
    """How many connections the open-files limit allows, raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= need:
        return wanted
    # A small limit is halved: models and their files need theirs.
    allowed = max(soft - SPARE_FILES, soft // 2)
    log.warning("the limit on open files (%d) allows %d connections, not %d: raise ulimit -n", hard, allowed, wanted)
    return allowed


def stop_handshakes(listener: socket.socket) -> None:
    """Let no more connections begin on a socket that nobody else listens on; those that have begun are completed.

    Else one could slip in between the last accept and the close, and would be reset. First packets are dropped; a
    client then tries again until it is told that nobody listens. The last packet of a handshake must not be: its client
    believes it is connected, and would be reset as well.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in DROP_SYN))
    with contextlib.suppress(OSError):
        given = struct.pack("HP", len(DROP_SYN), ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, given)
