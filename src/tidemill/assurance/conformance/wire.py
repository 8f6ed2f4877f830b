"""Asking a server: HTTP/1.1 over the standard library, which sends what no proper client would, and gRPC."""

from __future__ import annotations

import gzip
import http.client
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from hpack import HPACKError

from tidemill.assurance.conformance.case import Failed, Lost
from tidemill.assurance.grpc_client import Answer, GrpcClient
from tidemill.errors import ConfigError, Unavailable
from tidemill.realtime.protocols.grpc.messages import DecodeError, message

__all__ = ["SERVICE", "Grpc", "Reply", "Rest"]

# What a request may take.
SECONDS = 5.0
SERVICE = "/inference.GRPCInferenceService"
SHOWN = 120


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, size: int | None = None) -> Any:
        """The body, or its first `size` bytes, as JSON. Raises Failed."""
        try:
            return orjson.loads(self.body[:size])
        except orjson.JSONDecodeError:
            raise Failed(f"HTTP {self.status}, and the body is no JSON: {self.body[:SHOWN]!r}") from None

    def told(self) -> str:
        """Status and the beginning of the body, for people."""
        return f"HTTP {self.status}: {self.body[:SHOWN].decode(errors='replace')}".rstrip(": \n")


class Rest:
    """A keep-alive connection to `url`, opened anew where the server closed it."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError for what is no HTTP address."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(f"{url!r}: expected http://HOST:PORT or https://HOST:PORT")
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(parts.hostname, port, timeout=SECONDS, context=context)
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=SECONDS)
        self._prefix = parts.path.rstrip("/")

    def close(self) -> None:
        self._connection.close()

    def reachable(self) -> bool:
        """Whether the server still takes connections."""
        self._connection.close()
        try:
            self._connection.connect()
        except OSError:
            return False
        return True

    @property
    def connected(self) -> bool:
        """Whether the last answer left the connection open."""
        return self._connection.sock is not None

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request and its answer; an iterable body goes in chunks. Raises Lost."""
        told = {"content-type": "application/json"} if body is not None else {}
        told |= {} if headers is None else {name.lower(): value for name, value in headers.items()}
        first = ""
        for fresh in (not self.connected, True):
            try:
                self._connection.request(method, self._prefix + path, body, told)
                answer = self._connection.getresponse()
                found = Reply(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # A connection that was idle may have been closed by the server meanwhile: that is no answer to this.
                if fresh or isinstance(error, TimeoutError):
                    raise Lost(
                        f"no answer: {first or str(error) or type(error).__name__}", isinstance(error, TimeoutError)
                    ) from None
                first = str(error)
            else:
                return found
        raise AssertionError


class Grpc:
    """Calls of the protocol's service at HOST:PORT, over a connection that is opened anew where it was lost."""

    def __init__(self, address: str) -> None:
        """Raises ConfigError for what is no address."""
        host, _, port = address.removeprefix("grpc://").rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"--grpc {address!r}: expected HOST:PORT")
        self._host, self._port = host, int(port)
        self._client: GrpcClient | None = None

    def connect(self) -> None:
        """Raises ConfigError where nobody listens."""
        try:
            GrpcClient(self._host, self._port, SECONDS).close()
        except OSError as error:
            raise ConfigError(f"--grpc {self._host}:{self._port}: {error}") from None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def send(self, path: str, data: bytes, *, gzipped: bool = False) -> Answer:
        """One call of any method, `data` being its one message. Raises Lost."""
        metadata = [("grpc-encoding", "gzip")] if gzipped else []
        sent = [gzip.compress(data) if gzipped else data]
        first = ""
        for fresh in (self._client is None, True):
            try:
                if self._client is None:
                    self._client = GrpcClient(self._host, self._port, SECONDS)
                answer = self._client.call(path, sent, metadata, compressed=gzipped)
            except (OSError, Unavailable, HPACKError, ValueError) as error:
                self.close()
                # As over HTTP: an idle connection may have been closed meanwhile.
                if fresh or isinstance(error, TimeoutError):
                    raise Lost(
                        f"no answer: {first or str(error) or type(error).__name__}", isinstance(error, TimeoutError)
                    ) from None
                first = str(error)
            else:
                break
        if answer.status < 0:
            self.close()
            raise Lost(f"no gRPC status (HTTP {answer.headers.get(':status', 'no status')})")
        return answer

    def ask(self, method: str, request: Any) -> Answer:
        """One call of a method of the service by its bare name."""
        return self.send(f"{SERVICE}/{method}", request.SerializeToString())

    def answer(self, method: str, **asked: Any) -> Any:
        """The response message of a call that must succeed. Raises Failed."""
        made = message(f"inference.{method}Request")(**asked)
        return read(self.ask(method, made), f"inference.{method}Response")


def read(answer: Answer, type_: str) -> Any:
    """The one message of a call that ended well. Raises Failed."""
    if answer.status:
        raise Failed(f"status {answer.status}: {answer.text[:SHOWN]}")
    if len(answer.messages) != 1:
        raise Failed(f"{len(answer.messages)} messages, expected one")
    try:
        return message(type_).FromString(answer.messages[0])
    except DecodeError:
        raise Failed(f"the answer is no {type_}") from None
