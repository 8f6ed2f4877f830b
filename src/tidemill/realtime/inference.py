"""One inference request on its way through the path and back, whatever protocol it came in."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from tidemill.errors import InputError, Problem, TidemillError
from tidemill.prediction.batched import Call
from tidemill.prediction.result import Result, rows_error
from tidemill.realtime.answers import reply_error
from tidemill.realtime.endpoint import Endpoint
from tidemill.realtime.head import REQUEST_ID
from tidemill.realtime.request import Request
from tidemill.rows import Rows

__all__ = [
    "ENTITY_KEY",
    "PRIORITY_HEADER",
    "TIMEOUT_HEADER",
    "HttpInference",
    "Inference",
    "Origin",
    "deadline_of",
    "header_priority",
    "header_timeout",
]

log = logging.getLogger(__name__)

INTERNAL = 500
TIMEOUT_HEADER = b"x-request-timeout-ms"
PRIORITY_HEADER = b"x-request-priority"
ENTITY_KEY = b"x-entity-key"
"""The header with which a caller says whose rows these are, where a model's calls are shared by key."""


class Origin(Protocol):
    """What asked: a request over HTTP, a gRPC stream, or a message on one."""

    received_at: float
    on_gone: Callable[[], None] | None

    @property
    def caller(self) -> str:
        """Who asks; empty if nobody is known."""

    @property
    def peer(self) -> str:
        """The client's network address."""


R = TypeVar("R", bound=Origin)


class Inference(Call, Generic[R]):
    """A call that answers its request. A protocol's subclass says how (`send`, `tell`).

    `read` is the `time.monotonic()` moment at which reading its body began. With `partial`, rows without an answer
    do not spoil the others: `send` gets their problems.
    """

    __slots__ = ("endpoint", "partial", "read", "request")

    def __init__(
        self, endpoint: Endpoint, request: R, rows: Rows, deadline: float, read: float, partial: bool = False
    ) -> None:
        # As Call.__init__ does; a request is too short for calls up a tree of constructors.
        self.rows = rows
        self.deadline = deadline
        self.done = False
        self.waits_in = None
        self.size = 0
        self.kind = None
        self.priority = 0
        self.endpoint = endpoint
        self.request = request
        self.read = read
        self.partial = partial

    def begin(self) -> None:
        """Put the call in the queue; if it is refused, answer that."""
        self.request.on_gone = self.left
        try:
            self.endpoint.batched.submit(self)
        except TidemillError as error:
            self.done = True
            self.failed(error)
            return
        rates = self.endpoint.rates
        if rates is not None:
            request = self.request
            rates.charge(request.caller, request.peer, self.endpoint.name, len(self.rows))

    @abstractmethod
    def send(self, result: Result, start: int, stop: int, problems: Sequence[Problem]) -> float:
        """Answer the request with rows start to stop; problems, of rows counted from start, if `partial`.

        Returns the `time.monotonic()` moment at which the answer was encoded and not yet sent.
        """

    @abstractmethod
    def tell(self, error: TidemillError) -> None:
        """Answer the request with an error."""

    def answered(self, result: Result, start: int, stop: int) -> None:
        problems: Sequence[Problem] = ()
        if result.problems:
            problems = result.problems_of(start, stop)
            if problems and not self.partial:
                self.failed(rows_error(problems, stop - start))
                return
        rows = stop - start - (len({p.row for p in problems}) if problems else 0)
        counters = self.endpoint.counters
        counters.answering(1, rows)
        try:
            encoded = self.send(result, start, stop, problems)
        except BaseException:
            # It gets an error instead, which is counted as such.
            counters.answering(-1, -rows)
            raise
        request = self.request
        request.on_gone = None
        counters.succeeded(rows, request.received_at, self.read, self.queued, self.started, self.finished, encoded)
        shadow = self.endpoint.shadow
        if shadow is not None:
            shadow.copy(self.rows, result, start, stop)

    def label(self) -> str:
        """What the client calls this request; empty if it gave no id."""
        return ""

    def failed(self, error: TidemillError) -> None:
        self.request.on_gone = None
        endpoint = self.endpoint
        endpoint.counters.failed(self.request.received_at, error.code, error.reason)
        if error.status == INTERNAL:
            # Without the error's text: a model's own may hold feature values.
            told = {"model": endpoint.name, "version": endpoint.version, "code": error.code, "request": self.label()}
            log.error("a request failed", extra=told)
        self.tell(error)

    def left(self) -> None:
        """The client is gone."""
        self.cancel()
        self.endpoint.counters.failed(self.request.received_at, "cancelled")


class HttpInference(Inference[Request]):
    """A call that came over HTTP."""

    __slots__ = ()

    def label(self) -> str:
        return (self.request.header(REQUEST_ID) or b"").decode("latin-1")

    def tell(self, error: TidemillError) -> None:
        reply_error(self.request, error)


def deadline_of(endpoint: Endpoint, request: Request, timeout: float | None = None) -> float:
    """When the answer is due (`time.monotonic()`), from the soonest of the request's `timeout` (seconds) and its
    header, else from the package. Raises InputError for a header that is not a positive number.
    """
    said = header_timeout(request.header(TIMEOUT_HEADER))
    if said is not None:
        timeout = min(timeout or math.inf, said)
    return request.received_at + (timeout or endpoint.timeout)


def header_priority(value: bytes | None) -> int:
    """The priority from the value of the header X-Request-Priority: 1 is the highest, 0 (also without it) the default.

    Raises InputError where it is no integer.
    """
    if value is None:
        return 0
    if not value.isdigit() or len(value) > 20:
        raise InputError(f"header x-request-priority: got {value.decode('latin-1')!r:.40}, expected an integer ≥ 0")
    return int(value)


def header_timeout(value: bytes | None) -> float | None:
    """Seconds from the value of the header X-Request-Timeout-Ms. Raises InputError where it is no positive number."""
    if value is None:
        return None
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise InputError(f"header x-request-timeout-ms: got {value.decode('latin-1')!r}, expected a number above 0")
    return milliseconds / 1e3
