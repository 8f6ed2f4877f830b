"""ModelStreamInfer: any number of requests on one call, answered in their order; an error is an answer and no end.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_streaming.md (and its gRPC form).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from tidemill.errors import InputError, Late, Problem, TidemillError, Unavailable
from tidemill.prediction.result import Result
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.inference import Inference
from tidemill.realtime.protocols.grpc.calls import Calls, Collector, Wishes, encoded
from tidemill.realtime.protocols.grpc.decode import DecodeError, InferRequest, decode
from tidemill.realtime.protocols.grpc.encode import FRAME_BYTES, field, framed, parameters
from tidemill.realtime.protocols.grpc.infer import Invalid, Read, Targets, answer
from tidemill.realtime.protocols.grpc.status import CallError, GrpcCode, headers_block

__all__ = ["StreamInfer"]

# Requests of one stream that are worked on at once, and their bytes (of more than one). What comes beyond waits here,
# and then in the client: one stream shall not fill the queue.
MOST_HELD = 64
MOST_HELD_BYTES = 1 << 20
# Of each answer: no other to the same request will follow.
FINAL = parameters(4, {"triton_final_response": True})


class StreamInfer:
    """The method ModelStreamInfer."""

    def __init__(self, targets: Targets, calls: Calls) -> None:
        self.targets = targets
        self.calls = calls
        self.open: set[_Stream] = set()

    def __call__(self, stream: H2Stream) -> None:
        try:
            wishes = self.calls.wishes(stream)
        except TidemillError as error:
            self.calls.reject(stream, error)
            return
        _Stream(self, stream, wishes)

    def retire(self) -> None:
        """End every stream once what it was asked is answered."""
        for one in tuple(self.open):
            one.retire()


class _Message:
    """One request on a stream, and the place of its answer in the order."""

    __slots__ = ("answer", "id", "on_gone", "received_at", "size", "stream")

    def __init__(self, stream: _Stream, received_at: float, size: int) -> None:
        self.stream = stream
        self.received_at = received_at
        self.size = size
        self.id = ""
        self.on_gone: Callable[[], None] | None = None
        self.answer: bytes | None = None

    @property
    def caller(self) -> str:
        """Who asks."""
        return self.stream.caller

    @property
    def peer(self) -> str:
        """The client's network address."""
        return self.stream.peer


class _Stream:
    """One call: messages in, answers out in the order of their requests."""

    def __init__(self, method: StreamInfer, stream: H2Stream, wishes: Wishes) -> None:
        self._method = method
        self._stream = stream
        self._wishes = wishes
        self._collector = Collector(wishes.coding, method.calls.most)
        self._waiting: deque[_Message] = deque()
        # Messages that came while as many as may be are held.
        self._later: deque[tuple[bytes, float]] = deque()
        self._half_closed = self._retiring = self._advancing = self._over = False
        self._unread = self._working = self._sent = 0
        self._alarm: asyncio.TimerHandle | None = None
        stream.paced = True
        stream.on_data = self._data
        stream.on_gone = self._gone
        stream.on_writable = self._advance
        if wishes.timeout is not None:
            due = max(0.0, stream.received_at + wishes.timeout - monotonic())
            self._alarm = asyncio.get_running_loop().call_later(due, self._late)
        method.open.add(self)
        stream.send_headers(headers_block(wishes.answer_coding))

    @property
    def caller(self) -> str:
        """Who asks."""
        return self._stream.caller

    @property
    def peer(self) -> str:
        """The client's network address."""
        return self._stream.peer

    # -- in -------------------------------------------------------------------------------------------------

    def _data(self, data: bytes, end: bool) -> None:
        if self._over:
            return
        self._half_closed = end
        now = monotonic()
        try:
            found = self._collector.add(data) if data else []
            if end and self._collector.held:
                raise CallError(GrpcCode.INTERNAL, "the call ended in the middle of a message")
        except TidemillError as error:
            self._end(error)
            return
        if not self._retiring:
            self._later += [(one, now) for one in found]
        self._unread += len(data)
        self._advance()

    def _begin(self, data: bytes, received_at: float) -> None:
        message = _Message(self, received_at, len(data))
        self._waiting.append(message)
        self._working += message.size
        targets = self._method.targets
        read_at = monotonic()
        try:
            known = targets.known(data)
            if known is not None:
                found = targets.framed(known, data, self._stream)
            else:
                request = self._decode(data)
                message.id = request.id
                found = targets.of(request, data, self._stream)
        except Invalid as invalid:
            invalid.count(received_at)
            self.told(message, invalid.error)
            return
        except TidemillError as error:
            self._method.calls.count(error)
            self.told(message, error)
            return
        timeout = self._wishes.timeout
        left = None if timeout is None else self._stream.received_at + timeout - received_at
        inference = _Inference(message, found, found.due(received_at, left), read_at)
        inference.priority = found.asked.priority or self._wishes.priority
        inference.begin()

    def _decode(self, data: bytes) -> InferRequest:
        try:
            return decode(data, FRAME_BYTES)
        except DecodeError:
            raise InputError("the message is no inference.ModelInferRequest") from None

    # -- out ------------------------------------------------------------------------------------------------

    def answered(self, message: _Message, data: bytes) -> None:
        """The ModelStreamInferResponse of a message is known."""
        message.answer = data
        if self._waiting and self._waiting[0] is message:
            self._advance()

    def told(self, message: _Message, error: TidemillError) -> None:
        """A message is answered with an error; the stream goes on."""
        response = field(3, message.id.encode()) + FINAL if message.id else FINAL
        self.answered(message, field(1, str(error).encode("utf-8", "replace")) + field(2, response))

    def _advance(self) -> None:
        """Send the answers whose turn it is as far as the client takes them, and begin what waited."""
        if self._advancing:
            return
        self._advancing = True
        stream, waiting, later = self._stream, self._waiting, self._later
        while not self._over:
            if waiting and waiting[0].answer is not None and stream.writable:
                message = waiting.popleft()
                self._working -= message.size
                data = encoded(framed(message.answer or b""), self._wishes.answer_coding)
                self._sent += len(data)
                stream.send_data(data)
            elif later and (not waiting or self._has_room(len(later[0][0]))):
                self._begin(*later.popleft())
            else:
                break
        self._advancing = False
        if self._unread and not later:
            # Else the client goes on sending, and what waits has no bound.
            stream.consume(self._unread)
            self._unread = 0
        self._end_when_answered()

    def _has_room(self, size: int) -> bool:
        return len(self._waiting) < MOST_HELD and self._working + size <= MOST_HELD_BYTES

    def _end_when_answered(self) -> None:
        if self._over or self._waiting or self._later:
            return
        if self._retiring:
            self._end(Unavailable("the server is going away; open the stream anew", retry_after=1.0))
        elif self._half_closed:
            self._close()
            self._method.calls.end(self._stream, self._sent)

    # -- ends -----------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Take no further message, and end when those that came are answered."""
        self._retiring = True
        self._end_when_answered()

    def _end(self, error: TidemillError) -> None:
        if not self._over:
            self._close()
            self._method.calls.fail(self._stream, error, begun=True)

    def _late(self) -> None:
        self._end(Late("the deadline of the stream has passed"))

    def _gone(self) -> None:
        if not self._over:
            self._close()
            self._method.calls.left(self._stream)

    def _close(self) -> None:
        """Nothing more is taken or sent; work that has not begun never does."""
        self._over = True
        self._stream.on_gone = None
        if self._alarm is not None:
            self._alarm.cancel()
        self._method.open.discard(self)
        self._later.clear()
        waiting = tuple(self._waiting)
        self._waiting.clear()
        for message in waiting:
            if message.on_gone is not None:
                message.on_gone()


class _Inference(Inference[_Message]):
    """A request on a stream."""

    __slots__ = ("found",)

    def __init__(self, message: _Message, found: Read, deadline: float, read: float) -> None:
        super().__init__(found.target.endpoint, message, found.rows, deadline, read, found.asked.partial)
        self.found = found

    def send(self, result: Result, start: int, stop: int, problems: Sequence[Problem]) -> float:
        found = self.found
        response = answer(self, found.target.writer, found.asked, result, start, stop, problems, FINAL)
        data = field(2, response)
        encoded_at = monotonic()
        self.request.stream.answered(self.request, data)
        return encoded_at

    def tell(self, error: TidemillError) -> None:
        self.request.stream.told(self.request, error)
