"""`Client` and `AsyncClient`: each carries conversations over httpx, one in threads and one in an event loop."""

from __future__ import annotations

import asyncio
import queue
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tidemill.client.conversation import Conversation
from tidemill.client.steps import Lost, Reply, Send, Steps, Wait
from tidemill.errors import ConfigError, MissingExtra
from tidemill.prediction.exchange import Prediction

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")
OnBadRow = Literal["raise", "partial"]

# Seconds that an answer may be on its way after the deadline that the server was told: its own 504 says more.
SLACK = 0.25


class _Connected(ABC):
    """What both clients are made of; the options are described at `Client`."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        retries: int = 2,
        repeatable: bool | None = None,
        binary: bool = True,
        api_key: str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        max_connections: int = 100,
        transport: Any = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url {url!r}: expected http://HOST:PORT or https://HOST:PORT")
        if api_key is not None and token is not None:
            raise ConfigError("api_key and token: give one of them")
        told = dict(headers or {})
        if api_key is not None:
            told["x-api-key"] = api_key
        if token is not None:
            told["authorization"] = f"Bearer {token}"
        if max_connections < 1:
            raise ConfigError(f"max_connections: got {max_connections}, expected 1 or more")
        for name, value in told.items():
            if not (value.isascii() and value.isprintable()):
                raise ConfigError(f"{name}: what a header holds is plain ASCII; check the key, token or header given")
        try:
            import httpx  # noqa: F401 - the carriers import it as they need it
        except ImportError:
            raise MissingExtra("a client", "client") from None
        self._talk = Conversation(timeout, retries, repeatable, binary)
        self._open(
            max_connections,
            base_url=url.rstrip("/"),
            headers=told,
            verify=_tls(url, ca, cert, key),
            transport=transport,
            # A proxy that the environment names is for the web, and not for who answers in a millisecond.
            trust_env=False,
        )

    @abstractmethod
    def _open(self, most: int, **given: Any) -> None:
        """Make ready for at most so many connections; `given` is what httpx's clients take."""


class _Connections:
    """At most `most` clients of httpx with one connection each, lent to one thread at a time.

    A pool that threads share may close a connection that one of them waits on (encode/httpcore issue 1110): a call in
    some twenty thousand had no answer until its deadline when cores were busy.
    """

    def __init__(self, most: int, make: Callable[[], httpx.Client]) -> None:
        self._make = make
        self._made: list[httpx.Client] = []
        self._closed = False
        # What was used last is used first; None is one that may still be made.
        self._free: queue.LifoQueue[httpx.Client | None] = queue.LifoQueue()
        for _ in range(most):
            self._free.put(None)

    @contextmanager
    def one(self, seconds: float) -> Iterator[httpx.Client]:
        """A client for this thread. Raises queue.Empty if none becomes free in time."""
        if self._closed:
            raise RuntimeError("the client is closed")
        client = self._free.get(timeout=seconds)
        try:
            if client is None:
                client = self._make()
                self._made.append(client)
            yield client
        finally:
            self._free.put(client)

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for client in self._made:
            client.close()


class Client(_Connected):
    """A client of one server, which threads may share; make one and keep it.

    `timeout` is seconds for an answer, all attempts together. `retries` further attempts are made where that is safe:
    the server refused the call or was not reached; after a lost connection only if the model is `repeatable` (None:
    as the model's metadata says, which of other servers than Tidemill is no). `api_key` or `token` (a JSON web token)
    says who calls. `ca` is the file of the authority that signed the server's certificate, `cert` and `key` those of
    the client's own. `binary=False` sends and takes numbers as JSON, for servers without binary tensors. `transport`
    is httpx's, as `tidemill.testing.FakePredictor`.

    Every method raises what the server's error is in `tidemill.errors`: InputError, NotFound, Unauthenticated,
    Forbidden, Overloaded, Unavailable, Late, ModelError; and Disconnected for a connection that was lost.
    """

    def _open(self, most: int, **given: Any) -> None:
        import httpx

        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        self._connections = _Connections(most, lambda: httpx.Client(limits=limits, **given))

    def predict(
        self,
        model: str,
        data: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        on_bad_row: OnBadRow = "raise",
        timeout: float | None = None,
        priority: int = 0,
    ) -> Prediction:
        """Answer n rows. `data` is what `tidemill.Model.predict` takes: a dict of columns, a list of dicts, an array,
        or an Arrow, pandas or Polars table.

        `outputs` picks some. `priority` 1 is the highest, 0 the server's default. Raises RowsRejected for rows that
        break the signature and ModelError for rows that the model fails on, all named; with `on_bad_row="partial"`
        they are in `problems`.
        """
        return self._carry(self._talk.predict(model, data, version, outputs, on_bad_row, timeout, priority))

    def metadata(self, model: str, version: str | None = None, *, timeout: float | None = None) -> dict[str, Any]:
        """What the server tells of a model: its versions, inputs and outputs."""
        return self._carry(self._talk.metadata(model, version, timeout))

    def server(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The server's name, version and extensions."""
        return self._carry(self._talk.document("/v2", timeout))

    def live(self, *, timeout: float | None = None) -> bool:
        """Whether the server answers at all."""
        return self._carry(self._talk.well("/v2/health/live", timeout))

    def ready(self, model: str | None = None, version: str | None = None, *, timeout: float | None = None) -> bool:
        """Whether the server, or one model, can answer."""
        return self._carry(self._talk.ready(model, version, timeout))

    def wait_ready(self, model: str | None = None, version: str | None = None, *, timeout: float = 60.0) -> None:
        """Return once the server, or one model, is ready. Raises Late."""
        self._carry(self._talk.wait_ready(model, version, timeout))

    def load(self, model: str, *, timeout: float | None = None) -> None:
        """Load a model of the server's repository, or its versions anew."""
        self._carry(self._talk.control("load", model, timeout))

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        """Unload a model of the server's repository."""
        self._carry(self._talk.control("unload", model, timeout))

    def index(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The models of the server's repository, each with its versions and states."""
        return self._carry(self._talk.index(timeout))

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _carry(self, steps: Steps[T]) -> T:
        answer: Reply | Lost | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Wait):
                time.sleep(step.seconds)
                answer = None
            else:
                answer = self._send(step)

    def _send(self, step: Send) -> Reply | Lost:
        import httpx

        seconds = step.seconds + SLACK
        end = time.monotonic() + seconds
        body: list[bytes] = []
        try:
            with (
                self._connections.one(seconds) as http,
                http.stream(
                    step.method,
                    step.path,
                    headers=step.headers,
                    content=step.content,
                    timeout=max(0.0, end - time.monotonic()),
                ) as got,
            ):
                for part in got.iter_bytes():
                    body.append(part)
                    # httpx bounds each read; an answer that drips in would have no end.
                    if time.monotonic() > end:
                        return _over(seconds)
        except queue.Empty:
            return Lost(False, True, f"no connection was free for {seconds:.3g} s")
        except httpx.TransportError as error:
            return _lost(error)
        return Reply(got.status_code, got.headers, b"".join(body))


class AsyncClient(_Connected):
    """`Client` for an event loop: the same options and methods, awaited. It belongs to the loop that first uses it."""

    def _open(self, most: int, **given: Any) -> None:
        import httpx

        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        self._http = httpx.AsyncClient(limits=limits, **given)

    def predict(
        self,
        model: str,
        data: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        on_bad_row: OnBadRow = "raise",
        timeout: float | None = None,
        priority: int = 0,
    ) -> Awaitable[Prediction]:
        """As `Client.predict`."""
        return self._carry(self._talk.predict(model, data, version, outputs, on_bad_row, timeout, priority))

    def metadata(
        self, model: str, version: str | None = None, *, timeout: float | None = None
    ) -> Awaitable[dict[str, Any]]:
        """As `Client.metadata`."""
        return self._carry(self._talk.metadata(model, version, timeout))

    def server(self, *, timeout: float | None = None) -> Awaitable[dict[str, Any]]:
        """As `Client.server`."""
        return self._carry(self._talk.document("/v2", timeout))

    def live(self, *, timeout: float | None = None) -> Awaitable[bool]:
        """As `Client.live`."""
        return self._carry(self._talk.well("/v2/health/live", timeout))

    def ready(
        self, model: str | None = None, version: str | None = None, *, timeout: float | None = None
    ) -> Awaitable[bool]:
        """As `Client.ready`."""
        return self._carry(self._talk.ready(model, version, timeout))

    def wait_ready(
        self, model: str | None = None, version: str | None = None, *, timeout: float = 60.0
    ) -> Awaitable[None]:
        """As `Client.wait_ready`."""
        return self._carry(self._talk.wait_ready(model, version, timeout))

    def load(self, model: str, *, timeout: float | None = None) -> Awaitable[None]:
        """As `Client.load`."""
        return self._carry(self._talk.control("load", model, timeout))

    def unload(self, model: str, *, timeout: float | None = None) -> Awaitable[None]:
        """As `Client.unload`."""
        return self._carry(self._talk.control("unload", model, timeout))

    def index(self, *, timeout: float | None = None) -> Awaitable[list[dict[str, Any]]]:
        """As `Client.index`."""
        return self._carry(self._talk.index(timeout))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _carry(self, steps: Steps[T]) -> T:
        answer: Reply | Lost | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                answer = None
            else:
                answer = await self._send(step)

    async def _send(self, step: Send) -> Reply | Lost:
        import httpx

        seconds = step.seconds + SLACK
        try:
            async with asyncio.timeout(seconds):
                got = await self._http.request(
                    step.method, step.path, headers=step.headers, content=step.content, timeout=seconds
                )
        except TimeoutError:
            return _over(seconds)
        except httpx.TransportError as error:
            return _lost(error)
        return Reply(got.status_code, got.headers, got.content)


def _over(seconds: float) -> Lost:
    return Lost(True, True, f"{seconds:.3g} s are over")


def _lost(error: httpx.TransportError) -> Lost:
    import httpx

    sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return Lost(sent, isinstance(error, httpx.TimeoutException), str(error) or type(error).__name__)


def _tls(url: str, ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext | bool:
    if not url.startswith("https://"):
        if ca is not None or cert is not None or key is not None:
            raise ConfigError(f"ca, cert and key are for https, the url is {url}")
        return False
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"ca, cert or key cannot be read: {error}") from None
    return context
