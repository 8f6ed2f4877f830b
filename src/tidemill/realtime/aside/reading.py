"""A server's side of it: which bodies are read aside, in which order, and what becomes of their requests meanwhile."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from tidemill.errors import Late, Overloaded, TidemillError, TooLarge, Unavailable
from tidemill.realtime.answers import reply_error
from tidemill.realtime.aside.wire import Found, Order, receive_found, send_order
from tidemill.realtime.encoding import inflate
from tidemill.realtime.endpoint import Endpoint
from tidemill.realtime.inference import deadline_of
from tidemill.realtime.request import Request

__all__ = ["LARGE", "Aside", "body_at_hand", "read_aside"]

log = logging.getLogger(__name__)

PROGRAM = "tidemill.realtime.aside.program"
# Bytes from which on a body is read aside. A parser holds the interpreter's lock from the first byte to the last: for
# some 40 ms with numbers of this size, and for seconds with 64 MiB of nested arrays.
LARGE = 3 << 20
MOST_WAITING = 16
# Seconds after which a process that says nothing is given up, and one that has nothing to do is ended.
PATIENCE = 120.0
IDLE = 30.0
RETRY = 1.0

Begin = Callable[..., None]


def body_at_hand(request: Request, most: int, json_size: int | None, texts: bool) -> bytes | None:
    """The body without its Content-Encoding, at most `most` bytes; None if it is for the process aside to read.

    Binary tensors stay what they are and take no time, but for `texts`. Raises InputError.
    """
    body, coding = request.body, request.header(b"content-encoding")
    if (len(body) if json_size is None or texts else json_size) >= LARGE:
        return None
    if coding is None:
        return body
    if most <= LARGE:
        return inflate(body, coding, most)
    try:
        return inflate(body, coding, LARGE)
    except TooLarge:  # than is read here, if not more than may be
        return None


def read_aside(aside: Aside, asked: Sequence[Endpoint], request: Request, order: Order, begin: Begin) -> None:
    """Have a request's body read, then `begin(rows, *wishes)` in the event loop, which may raise what to answer.

    One of the endpoints `asked` will be called, and the first counts what cannot be read, which is answered here.
    Raises InputError, and Overloaded where too many wait.
    """
    reading = _Reading(asked, request, begin)
    due = deadline_of(asked[0], request)
    job = aside.read(order, request.body, reading.told)
    reading.start(job, due)


class _Reading:
    """A request whose body is being read. Belongs to the event loop's thread."""

    __slots__ = ("_asked", "_begin", "_job", "_late", "_request")

    def __init__(self, asked: Sequence[Endpoint], request: Request, begin: Begin) -> None:
        self._asked = asked
        self._request = request
        self._begin = begin
        self._job: _Job | None = None
        self._late: asyncio.TimerHandle | None = None

    def start(self, job: _Job, due: float) -> None:
        self._job = job
        self._late = asyncio.get_running_loop().call_at(due, self._expired)
        for one in self._asked:
            one.reading += 1
        self._request.on_gone = self._left

    def told(self, found: Found) -> None:
        self._end()
        try:
            if isinstance(found, TidemillError):
                raise found
            rows, wishes = found
            self._begin(rows, *wishes)
        except TidemillError as error:
            self._fail(error)

    def _expired(self) -> None:
        self._end()
        self._fail(Late("the deadline passed before the request was read"))

    def _left(self) -> None:
        self._end()
        self._asked[0].counters.failed(self._request.received_at, "cancelled")

    def _end(self) -> None:
        for one in self._asked:
            one.reading -= 1
        self._request.on_gone = None
        if self._job is not None:
            self._job.wanted = False
        if self._late is not None:
            self._late.cancel()

    def _fail(self, error: TidemillError) -> None:
        self._asked[0].counters.failed(self._request.received_at, error.code, error.reason)
        reply_error(self._request, error)


class _Job:
    """A body on its way to the process and back. Once it is not `wanted` nobody is told."""

    __slots__ = ("body", "loop", "order", "told", "wanted")

    def __init__(self, order: Order, body: bytes, told: Callable[[Found], None]) -> None:
        self.order = order
        self.body = body
        self.told = told
        self.loop = asyncio.get_running_loop()
        self.wanted = True

    def tell(self, found: Found) -> None:
        """Tell the event loop, from any thread."""
        with suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self._tell, found)

    def _tell(self, found: Found) -> None:
        if self.wanted:
            self.told(found)


class Aside:
    """Reads bodies one after the other, in a process that is there as long as there are some."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: _Process | None = None
        self._closed = False

    def read(self, order: Order, body: bytes, told: Callable[[Found], None]) -> _Job:
        """Have `told` called in the running event loop. Raises Overloaded, and Unavailable once this was closed."""
        if self._closed:
            raise Unavailable("the server is ending")
        if self._jobs.qsize() >= MOST_WAITING:
            raise Overloaded(f"{MOST_WAITING} large bodies wait to be read", retry_after=RETRY, reason="large_bodies")
        job = _Job(order, body, told)
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
            self._thread.start()
        return job

    def close(self) -> None:
        """End the process at once; who waits is told nothing."""
        self._closed = True
        self._jobs.put(None)
        process = self._process
        if process is not None:
            process.kill()

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE)
            except Empty:
                self._end()
                continue
            if job is None or self._closed:
                self._end()
                return
            if job.wanted:
                job.tell(self._ask(job))
            del job  # and its body with it

    def _ask(self, job: _Job) -> Found:
        for _ in range(2):
            try:
                if self._process is None:
                    self._process = _Process()
                return self._process.read(job.order, job.body)
            except (OSError, EOFError) as error:
                # It may have been killed while it had nothing to do.
                self._end()
                if self._closed:
                    break
                log.warning("the process that reads large bodies ended", extra={"reason": str(error)})
        return Unavailable("the process that reads large bodies ended; send fewer rows, or binary tensors", RETRY)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.popen.wait()
            self._process.socket.close()
            self._process = None


class _Process:
    def __init__(self) -> None:
        """Raises OSError where none can be started."""
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE)
        with theirs:
            # Its own session: Ctrl-C is for the server, which ends it.
            self.popen: subprocess.Popen[Any] = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def read(self, order: Order, body: bytes) -> Found:
        """Raises OSError or EOFError if it is gone, or says nothing for long."""
        send_order(self.socket, order, body)
        return receive_found(self.socket)

    def kill(self) -> None:
        """From any thread."""
        with suppress(ProcessLookupError):
            self.popen.kill()
