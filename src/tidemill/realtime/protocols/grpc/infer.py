"""ModelInfer: one request message to one answer, on the shortest way there is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any

from tidemill.errors import InputError, Problem, TidemillError, Unavailable
from tidemill.prediction.result import Result
from tidemill.realtime.endpoint import Endpoint, Endpoints
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.inference import ENTITY_KEY, Inference
from tidemill.realtime.protocols.grpc.calls import Calls, Wishes
from tidemill.realtime.protocols.grpc.decode import DecodeError, InferRequest, decode
from tidemill.realtime.protocols.grpc.encode import FRAME_BYTES, Writer, framed, parameters
from tidemill.realtime.protocols.grpc.read import Frame, InferReader
from tidemill.realtime.protocols.grpc.status import CallError, GrpcCode
from tidemill.realtime.protocols.oip_request import Asked
from tidemill.realtime.security.scopes import Need
from tidemill.realtime.service import Service, State
from tidemill.realtime.timing import timing_parameters
from tidemill.rows import Rows

__all__ = ["Infer", "Invalid", "Read", "Targets", "answer"]

# Frames remembered, one for each length of message.
FRAMES = 256


class Target:
    """One model version as gRPC sees it."""

    __slots__ = ("endpoint", "names", "reader", "writer")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.reader = InferReader(endpoint.live, endpoint.limits)
        self.writer = Writer(endpoint.package)
        self.names = [o.name for o in endpoint.manifest.outputs]

    def plain(self, asked: Asked) -> bool:
        """Whether all outputs are wanted and nothing else."""
        names = [name for name, _ in asked.outputs]
        return asked.id is None and not asked.partial and not asked.timing and names == self.names


class Read:
    """A request that was read: who answers it, its rows, and what the answer shall be like."""

    __slots__ = ("asked", "plain", "rows", "target")

    def __init__(self, target: Target, rows: Rows, asked: Asked, plain: bool) -> None:
        self.target = target
        self.rows = rows
        self.asked = asked
        self.plain = plain

    def due(self, received_at: float, timeout: float | None) -> float:
        """When the answer is due, by the soonest of the call's `timeout` (seconds) and the request's own."""
        own = self.asked.timeout
        if timeout is None or (own is not None and own < timeout):
            timeout = own
        return received_at + (self.target.endpoint.timeout if timeout is None else timeout)


class Invalid(Exception):
    """A request that its model cannot take: the model counts it."""

    def __init__(self, endpoint: Endpoint, error: InputError) -> None:
        self.error = error
        self._endpoint = endpoint
        super().__init__(str(error))

    def count(self, received_at: float) -> None:
        """Count the request, which came at that moment."""
        self._endpoint.counters.failed(received_at, self.error.code, self.error.reason)


class Known:
    """A frame, and what was found once for all requests of it. `seconds` is when their answers are due."""

    __slots__ = ("frame", "head", "need", "packed", "plain", "seconds", "target")

    def __init__(self, frame: Frame, target: Target, plain: bool, need: Need) -> None:
        self.frame = frame
        self.head = frame.head
        self.target = target
        self.plain = plain
        self.need = need
        self.packed = frame.packed and plain and not frame.marks and not frame.asked.priority
        own = frame.asked.timeout
        self.seconds = target.endpoint.timeout if own is None else own


class Targets:
    """Finds and reads for the models that are served now."""

    def __init__(self, service: Service, calls: Calls) -> None:
        self._service = service
        self._calls = calls
        self._endpoints: Endpoints | None = None
        self._targets: dict[Endpoint, Target] = {}
        self._known: dict[int, Known] = {}
        self._once: dict[int, int] = {}

    def known(self, data: bytes) -> Known | None:
        """What is known of a framed message that is one of those before but for its numbers; None if it is not."""
        known = self._known.get(len(data))
        if known is None or not data.startswith(known.head) or self._endpoints is not self._service.endpoints:
            return None
        return known if not known.frame.marks or known.frame.fits(data) else None

    def framed(self, known: Known, data: bytes, stream: H2Stream) -> Read:
        """A message that is known. Raises Invalid, or what the gate says."""
        self._calls.enter(stream, known.need)
        target = known.target
        try:
            return Read(target, target.reader.framed(known.frame, data), known.frame.asked, known.plain)
        except InputError as error:
            raise Invalid(target.endpoint, error) from None

    def read(self, data: bytes, stream: H2Stream) -> Read:
        """Any framed message. Raises CallError, and as `of` does."""
        try:
            request = decode(data, FRAME_BYTES)
        except DecodeError:
            raise CallError(GrpcCode.INTERNAL, "the message is no inference.ModelInferRequest") from None
        return self.of(request, data, stream)

    def of(self, request: InferRequest, data: bytes, stream: H2Stream) -> Read:
        """A request that was decoded from `data`. Raises NotFound, Unavailable, Invalid, or what the gate says."""
        need = Need.of("infer", request.model.partition("@")[0])
        self._calls.enter(stream, need)
        if self._service.state is State.LOADING:
            raise Unavailable("the models are being loaded", retry_after=1.0)
        endpoints = self.current()
        target = self._target(endpoints.find(request.model, request.version or None))
        try:
            rows, asked = target.reader.read(request)
        except InputError as error:
            raise Invalid(target.endpoint, error) from None
        split = None if request.version else endpoints.split(request.model)
        plain = target.plain(asked)
        if split is None:
            self._learn(request, data, target, plain, need)
        else:
            target = self._target(split.choose(rows, stream.header(ENTITY_KEY)))
        return Read(target, rows, asked, plain)

    def current(self) -> Endpoints:
        """The endpoints of this moment; what was learned of those that are gone is forgotten."""
        endpoints = self._service.endpoints
        if endpoints is not self._endpoints:
            self._endpoints = endpoints
            self._targets = {one: self._targets[one] for one in endpoints if one in self._targets}
            self._known.clear()
            self._once.clear()
        return endpoints

    def _target(self, endpoint: Endpoint) -> Target:
        found = self._targets.get(endpoint)
        if found is None:
            found = self._targets[endpoint] = Target(endpoint)
        return found

    def _learn(self, request: InferRequest, data: bytes, target: Target, plain: bool, need: Need) -> None:
        """Remember the frame of a message when its like is seen for the second time."""
        if not request.raw or request.id:
            return
        size = len(data)
        mark = hash(data[: request.raw[0][1]])
        if self._once.get(size) != mark:
            if len(self._once) >= FRAMES:
                self._once.clear()
            self._once[size] = mark
            return
        frame = target.reader.frame(request, data)
        if frame is not None:
            if len(self._known) >= FRAMES:
                self._known.clear()
            self._known[size] = Known(frame, target, plain, need)


class Infer:
    """The method ModelInfer."""

    def __init__(self, targets: Targets, calls: Calls) -> None:
        self._targets = targets
        self._calls = calls

    def __call__(self, stream: H2Stream) -> None:
        stream.on_data = partial(self._first, stream)

    def _first(self, stream: H2Stream, data: bytes, end: bool) -> None:
        """The first piece of a call, and mostly all of it; the shortest way is here in one piece."""
        known = self._targets.known(data) if end else None
        if known is None or not known.packed or stream.head not in self._calls.plain:
            self._calls.first(stream, self._take, data, end)
            return
        read_at = monotonic()
        target = known.target
        rows = target.reader.packed(known.frame, data)
        inference = _Plain(target.endpoint, stream, rows, stream.received_at + known.seconds, read_at)
        inference.calls = self._calls
        inference.coding = b""
        inference.writer = target.writer
        inference.begin()

    def _take(self, stream: H2Stream, wishes: Wishes, data: bytes) -> None:
        read_at = monotonic()
        try:
            known = self._targets.known(data)
            found = self._targets.read(data, stream) if known is None else self._targets.framed(known, data, stream)
        except Invalid as invalid:
            invalid.count(stream.received_at)
            self._calls.fail(stream, invalid.error)
            return
        due = found.due(stream.received_at, wishes.timeout)
        inference: _Plain
        if found.plain:
            inference = _Plain(found.target.endpoint, stream, found.rows, due, read_at)
        else:
            inference = _Asked(found.target.endpoint, stream, found.rows, due, read_at, found.asked.partial)
            inference.asked = found.asked
        inference.priority = found.asked.priority or wishes.priority
        inference.calls = self._calls
        inference.coding = wishes.answer_coding
        inference.writer = found.target.writer
        inference.begin()


class _Plain(Inference[H2Stream]):
    """All outputs, to a client that asked for nothing else."""

    __slots__ = ("calls", "coding", "writer")

    calls: Calls
    coding: bytes
    writer: Writer

    def send(self, result: Result, start: int, stop: int, problems: Sequence[Problem]) -> float:
        data = self.writer.plain(result, start, stop)
        encoded = monotonic()
        self.calls.reply(self.request, self.coding, data)
        return encoded

    def tell(self, error: TidemillError) -> None:
        self.calls.fail(self.request, error)

    def left(self) -> None:
        super().left()
        self.calls.left(self.request)


class _Asked(_Plain):
    """An answer as the request asked for it."""

    __slots__ = ("asked",)

    asked: Asked

    def label(self) -> str:
        return self.asked.id or ""

    def send(self, result: Result, start: int, stop: int, problems: Sequence[Problem]) -> float:
        data = framed(answer(self, self.writer, self.asked, result, start, stop, problems))
        encoded = monotonic()
        self.calls.reply(self.request, self.coding, data)
        return encoded


def answer(
    call: Inference[Any],
    writer: Writer,
    asked: Asked,
    result: Result,
    start: int,
    stop: int,
    problems: Sequence[Problem],
    more: bytes = b"",
) -> bytes:
    """The message that a request asked for, unframed; `more` are fields of it that are ready."""
    names = [name for name, _ in asked.outputs]
    data = writer.write(result, start, stop, names, asked.id, problems if asked.partial else None, more)
    # Entries of a map may stand anywhere in the message.
    return data + parameters(4, timing_parameters(call, monotonic())) if asked.timing else data
