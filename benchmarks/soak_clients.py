"""The clients of the soak: they ask in every protocol, leave, send nonsense, and know what became of each request."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc.aio as triton

from benchmarks.soak_requests import Tensors, Wanted

__all__ = ["Clients", "Pace", "Tally", "Traffic"]

PATIENCE_S = 60.0
MOST_FAILURES = 50
LINGER = struct.pack("ii", 1, 0)


@dataclass
class Tally:
    """What became of requests: each that was sent has one outcome, or is missing."""

    sent: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    """Those with the answer that they must have."""
    left: Counter[str] = field(default_factory=Counter)
    """Those whose client did not wait for it."""
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """What was said to some of the failed."""

    def outcome(self, kind: str, right: bool, told: Callable[[], str]) -> None:
        """A request has been answered, rightly or not, or never will be."""
        if right:
            self.answered[kind] += 1
            return
        self.failed[kind] += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(f"{kind}: {told()[:500]}")

    @property
    def missing(self) -> int:
        """Requests without an outcome."""
        return self.sent.total() - self.answered.total() - self.left.total() - self.failed.total()


@dataclass(frozen=True)
class Traffic:
    """What is sent: tensors, the same as HTTP requests, and requests that are wrong."""

    tensors: list[Tensors]
    good: list[Wanted]
    bad: list[Wanted]


class Pace:
    """Permits for `rate` exchanges a second, without limit if there is none. One not used within a second is lost."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._next = 0.0

    async def turn(self) -> None:
        """Return when the next exchange is due."""
        if self.rate is None:
            return
        now = monotonic()
        self._next = max(self._next + 1 / self.rate, now - 1.0)
        if self._next > now:
            await asyncio.sleep(self._next - now)


class Clients:
    """Workers, each with connections of its own; an exchange is one of the kinds, drawn by its weight."""

    def __init__(self, port: int, traffic: Traffic, workers: int, seed: int) -> None:
        self.tally = Tally()
        self.pace = Pace()
        self.exchanges = 0
        self._enough = False
        self._workers = [
            asyncio.create_task(_Worker(self, port, traffic, Random(f"{seed} {i}")).run()) for i in range(workers)
        ]

    @property
    def enough(self) -> bool:
        """Whether no more is to be sent."""
        return self._enough

    async def rate(self, seconds: float) -> float:
        """Exchanges a second, over so many seconds. Raises what no client expected."""
        began, before = monotonic(), self.exchanges
        for worker in (await asyncio.wait(self._workers, timeout=seconds, return_when=asyncio.FIRST_COMPLETED))[0]:
            worker.result()
        return (self.exchanges - before) / (monotonic() - began)

    async def finish(self) -> None:
        """Send no more, and wait until everything has its outcome. Raises what no client expected."""
        self._enough = True
        await asyncio.gather(*self._workers)


class _Worker:
    def __init__(self, clients: Clients, port: int, traffic: Traffic, random: Random) -> None:
        self._clients = clients
        self._tally = clients.tally
        self._port = port
        self._traffic = traffic
        self._random = random
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._http2: httpx.AsyncClient | None = None
        self._triton: Any = None

    async def run(self) -> None:
        kinds: list[tuple[Callable[[], Coroutine[Any, Any, None]], float]] = [
            (self._http1, 0.80),
            (self._over_http2, 0.05),
            (self._over_grpc, 0.05),
            (self._wrong, 0.06),
            (self._leave, 0.04),
        ]
        exchanges, weights = zip(*kinds, strict=True)
        try:
            while not self._clients.enough:
                await self._clients.pace.turn()
                await self._random.choices(exchanges, weights)[0]()
                self._clients.exchanges += 1
        finally:
            await self._close()

    # -- HTTP/1.1 ------------------------------------------------------------------------------------------

    async def _http1(self) -> None:
        """One request, or a pipeline of several, on a kept connection."""
        depth = 1 if self._random.random() < 0.7 else self._random.randint(2, 16)
        await self._ask([self._random.choice(self._traffic.good) for _ in range(depth)])

    async def _wrong(self) -> None:
        await self._ask([self._random.choice(self._traffic.bad)])

    async def _ask(self, wanted: list[Wanted]) -> None:
        for one in wanted:
            self._tally.sent[one.kind] += 1
        done = 0
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await self._connection()
                chunked = self._random.random() < 0.1
                writer.write(b"".join([one.raw(chunked) for one in wanted]))
                for one in wanted:
                    status, body, closes = await _answer(reader)
                    self._tally.outcome(one.kind, one.right(status, body), lambda s=status, b=body: f"{s} {b!r}")  # type: ignore[misc]
                    done += 1
                    if closes:
                        raise ConnectionResetError("closed by the server")
        except (OSError, EOFError, TimeoutError) as error:
            for one in wanted[done:]:
                self._tally.outcome(one.kind, False, lambda e=error: repr(e))  # type: ignore[misc]
            self._hang_up()
        if self._random.random() < 0.01:
            self._hang_up()

    async def _leave(self) -> None:
        """Send all of a request, or a part, and go: politely, or with a reset, at once or a moment later."""
        one = self._random.choice(self._traffic.good)
        raw = one.raw()
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._tally.sent[one.kind] += 1
            self._tally.left[one.kind] += 1
            writer.write(raw if self._random.random() < 0.7 else raw[: self._random.randrange(1, len(raw))])
            if self._random.random() < 0.5:
                await asyncio.sleep(self._random.random() / 100)
            if self._random.random() < 0.5:
                writer.get_extra_info("socket").setsockopt(1, 13, LINGER)  # SOL_SOCKET, SO_LINGER
            writer.close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._stream is None:
            self._stream = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        return self._stream

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None

    # -- HTTP/2, gRPC --------------------------------------------------------------------------------------

    async def _over_http2(self) -> None:
        """Some requests at once on one connection."""
        if self._http2 is None:
            self._http2 = httpx.AsyncClient(http1=False, http2=True, timeout=PATIENCE_S, trust_env=False)
        good = [self._random.choice(self._traffic.good) for _ in range(self._random.randint(1, 6))]
        await asyncio.gather(*(self._ask_http2(self._http2, one) for one in good))
        if self._random.random() < 0.02:
            await self._http2.aclose()
            self._http2 = None

    async def _ask_http2(self, client: httpx.AsyncClient, one: Wanted) -> None:
        kind = f"HTTP/2 {one.kind}"
        self._tally.sent[kind] += 1
        try:
            answer = await client.post(
                f"http://127.0.0.1:{self._port}{one.path}", content=one.body, headers=list(one.headers)
            )
        except httpx.HTTPError as error:
            self._tally.outcome(kind, False, lambda e=error: repr(e))  # type: ignore[misc]
            return
        self._tally.outcome(
            kind, one.right(answer.status_code, answer.content), lambda: f"{answer.status_code} {answer.content!r}"
        )

    async def _over_grpc(self) -> None:
        """A call, at times of a model that is not there, or one that is cancelled."""
        if self._triton is None:
            self._triton = triton.InferenceServerClient(f"127.0.0.1:{self._port}")
        one = self._random.choice(self._traffic.tensors)
        dice = self._random.random()
        name = "none" if dice < 0.05 else one.model
        tensor = triton.InferInput(one.name, list(one.values.shape), one.datatype)
        tensor.set_data_from_numpy(one.values)
        kind = "gRPC"
        self._tally.sent[kind] += 1
        call = asyncio.ensure_future(self._triton.infer(name, [tensor], client_timeout=PATIENCE_S))
        if dice > 0.95:
            await asyncio.sleep(self._random.random() / 100)
            call.cancel()
            with suppress(asyncio.CancelledError, triton.InferenceServerException):
                await call
            self._tally.left[kind] += 1
        else:
            await self._note_grpc(kind, name, one, call)
        if self._random.random() < 0.02:
            await self._triton.close()
            self._triton = None

    async def _note_grpc(self, kind: str, name: str, one: Tensors, call: asyncio.Future[Any]) -> None:
        try:
            found = await call
        except triton.InferenceServerException as error:
            right = name == "none" and "NOT_FOUND" in str(error.status())
            self._tally.outcome(kind, right, lambda e=error: str(e))  # type: ignore[misc]
            return
        right = all(np.array_equal(found.as_numpy(output), values) for output, values in one.outputs.items())
        self._tally.outcome(kind, right, lambda: "other values than it must have")

    async def _close(self) -> None:
        self._hang_up()
        if self._http2 is not None:
            await self._http2.aclose()
        if self._triton is not None:
            await self._triton.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status and body of the next answer, and whether the server closes after it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    fields = dict(line.split(b": ", 1) for line in head[:-4].split(b"\r\n")[1:])
    body = await reader.readexactly(int(fields[b"content-length"]))
    if fields.get(b"content-encoding") == b"gzip":
        body = gzip.decompress(body)
    return int(head[9:12]), body, fields.get(b"connection") == b"close"
