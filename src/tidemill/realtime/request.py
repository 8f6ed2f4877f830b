"""One request as the protocols above see it, whatever HTTP version carried it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["JSON", "Handler", "Header", "Request"]

JSON = b"application/json"


Header = tuple[bytes, bytes]


class Request(ABC):
    """A complete request and the way back to its client. All of it belongs to the event loop's thread.

    Exactly one answer is given, now or later: `reply`, or `start`, any number of `write`, and `end`. After the
    client has left (`gone`) these do nothing.
    """

    __slots__ = (
        "_fields",
        "bare",
        "body",
        "caller",
        "gone",
        "headers",
        "method",
        "on_gone",
        "on_writable",
        "path",
        "query",
        "received_at",
        "target",
    )

    method: str
    target: bytes
    """As sent: path and query, undecoded."""
    path: str
    """Percent-decoded, without the query."""
    query: bytes
    """After the first `?`, undecoded; empty if there is none."""
    headers: Sequence[Header]
    """In the order sent, names in lower case. Shared between equal requests: never change it."""
    bare: bool
    """No header says how to read the body, how to answer or by when: a handler need not look for one."""
    body: bytes
    caller: str
    """Who asks: by client certificate, else by the key or token that was accepted; empty if nobody is known."""
    received_at: float
    """`time.monotonic()` when the headers were complete; the clock of `loop.time()`."""
    gone: bool
    """The client left before it was answered."""
    on_gone: Callable[[], None] | None
    """Set by the handler; called once if the client leaves before its answer is complete."""
    on_writable: Callable[[], None] | None
    """Set by the handler; called when `writable` has become true again."""
    _fields: Mapping[bytes, bytes]

    def header(self, name: bytes) -> bytes | None:
        """The value of the header `name` (given in lower case); repeated headers are joined with a comma."""
        return self._fields.get(name)

    @property
    @abstractmethod
    def peer(self) -> str:
        """The client's network address, without its port; empty if it has none."""

    @abstractmethod
    def reply(
        self,
        status: int,
        body: bytes | list[bytes],
        content_type: bytes = JSON,
        headers: Iterable[Header] = (),
    ) -> None:
        """Give the whole answer. A list of bytes is sent as if joined. RuntimeError if answered already."""

    @abstractmethod
    def start(self, status: int, content_type: bytes, headers: Iterable[Header] = ()) -> None:
        """Begin an answer whose length is not known. RuntimeError if answered already."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send a piece of a started answer at once."""

    @abstractmethod
    def end(self) -> None:
        """Complete a started answer."""

    @property
    @abstractmethod
    def writable(self) -> bool:
        """Whether the client keeps up: a streaming handler stops writing while this is false."""


Handler = Callable[[Request], None]
"""Called in the event loop with each complete request; answers it then or later. No task, no future."""
