"""Server reflection, v1 and v1alpha: a client that knows nothing can list the services and fetch their files.

https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.errors import TidemillError
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.protocols.grpc.calls import Calls, Collector, Wishes, encoded, parse
from tidemill.realtime.protocols.grpc.encode import FRAME_BYTES, framed
from tidemill.realtime.protocols.grpc.messages import message, pool
from tidemill.realtime.protocols.grpc.status import CallError, GrpcCode, headers_block
from tidemill.realtime.security.scopes import Need

__all__ = ["Reflection"]


class Reflection:
    """ServerReflectionInfo of one version of the service (`package` is grpc.reflection.v1 or v1alpha)."""

    def __init__(self, calls: Calls, package: str, services: Sequence[str]) -> None:
        self._calls = calls
        self._package = package
        self._services = services

    def __call__(self, stream: H2Stream) -> None:
        try:
            wishes = self._calls.wishes(stream)
            self._calls.enter(stream, Need("read", open_as="metadata"))
        except TidemillError as error:
            self._calls.reject(stream, error)
            return
        stream.send_headers(headers_block(wishes.answer_coding))
        # Answers are many times their questions: who does not read them is not read either.
        stream.paced = True
        _Session(self, self._calls, stream, wishes)

    def answer(self, data: bytes) -> bytes:
        """The framed response to one request. Raises CallError for one that is malformed."""
        asked = parse(f"{self._package}.ServerReflectionRequest", data)
        response = message(f"{self._package}.ServerReflectionResponse")()
        response.valid_host = asked.host
        response.original_request.CopyFrom(asked)
        which = asked.WhichOneof("message_request")
        try:
            self._fill(response, which, asked)
        except KeyError:
            _fail(response, GrpcCode.NOT_FOUND, f"not found: {getattr(asked, which)!s:.200}")
        return framed(response.SerializeToString())

    def _fill(self, response: Any, which: str | None, asked: Any) -> None:
        known = pool()
        if which == "list_services":
            response.list_services_response.SetInParent()
            for name in self._services:
                response.list_services_response.service.add(name=name)
        elif which == "file_by_filename":
            _add_files(response, known.FindFileByName(asked.file_by_filename))
        elif which == "file_containing_symbol":
            _add_files(response, known.FindFileContainingSymbol(asked.file_containing_symbol))
        elif which == "file_containing_extension":
            # None of our files has an extension, but the type is looked up for who asks for one that is not there.
            known.FindMessageTypeByName(asked.file_containing_extension.containing_type)
            _fail(response, GrpcCode.NOT_FOUND, "there are no extensions")
        elif which == "all_extension_numbers_of_type":
            known.FindMessageTypeByName(asked.all_extension_numbers_of_type)
            response.all_extension_numbers_response.base_type_name = asked.all_extension_numbers_of_type
        else:
            _fail(response, GrpcCode.INVALID_ARGUMENT, "the request asks for nothing")


class _Session:
    """One call of ServerReflectionInfo."""

    def __init__(self, reflection: Reflection, calls: Calls, stream: H2Stream, wishes: Wishes) -> None:
        self._reflection = reflection
        self._calls = calls
        self._stream = stream
        self._coding = wishes.answer_coding
        self._collector = Collector(wishes.coding, calls.most)
        self._waiting: list[bytes] = []
        self._ended = False
        self._unread = self._sent = 0
        stream.on_data = self._data
        stream.on_writable = self._advance
        stream.on_gone = lambda: calls.left(stream)

    def _data(self, data: bytes, end: bool) -> None:
        try:
            self._waiting += self._collector.add(data) if data else []
            if end and self._collector.held:
                raise CallError(GrpcCode.INTERNAL, "the call ended in the middle of a message")
        except TidemillError as error:
            self._calls.fail(self._stream, error, begun=True)
            return
        self._ended = end
        self._unread += len(data)
        self._advance()

    def _advance(self) -> None:
        stream = self._stream
        while self._waiting and stream.writable:
            try:
                answer = encoded(self._reflection.answer(self._waiting.pop(0)[FRAME_BYTES:]), self._coding)
            except TidemillError as error:
                self._calls.fail(stream, error, begun=True)
                return
            self._sent += len(answer)
            stream.send_data(answer)
        if self._waiting:
            return
        stream.consume(self._unread)
        self._unread = 0
        if self._ended:
            self._calls.end(stream, self._sent)


def _fail(response: Any, code: GrpcCode, text: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = text


def _add_files(response: Any, file: Any) -> None:
    """The file and all that it imports, each once, those that import others after them."""
    found: dict[str, bytes] = {}

    def visit(one: Any) -> None:
        for other in one.dependencies:
            if other.name not in found:
                visit(other)
        found[one.name] = one.serialized_pb

    visit(file)
    # The file that was asked for comes first, as clients expect.
    response.file_descriptor_response.file_descriptor_proto.extend(reversed(found.values()))
