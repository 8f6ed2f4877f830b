"""Inference by the Open Inference Protocol over REST.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

from tidemill.errors import InputError, Problem, TidemillError
from tidemill.prediction.result import Result
from tidemill.realtime.answers import reply_encoded, reply_error
from tidemill.realtime.aside.reading import LARGE, Aside, body_at_hand, read_aside
from tidemill.realtime.aside.wire import Order
from tidemill.realtime.encoding import WORTH_COMPRESSING
from tidemill.realtime.endpoint import Endpoint, Endpoints
from tidemill.realtime.inference import ENTITY_KEY, PRIORITY_HEADER, HttpInference, deadline_of, header_priority
from tidemill.realtime.models.split import Split
from tidemill.realtime.protocols.oip_fast import FastReader
from tidemill.realtime.protocols.oip_request import Asked, Reader
from tidemill.realtime.protocols.oip_response import Writer
from tidemill.realtime.request import Request
from tidemill.realtime.routes import Router
from tidemill.realtime.timing import server_timing, timing_parameters, wants_timing
from tidemill.rows import Rows

__all__ = ["Infer", "add_infer"]

BINARY = b"application/octet-stream"
JSON_SIZE = b"inference-header-content-length"


def add_infer(router: Router, endpoints: Endpoints, name: str, max_body: int, aside: Aside) -> None:
    """`POST …/infer` of a model, with and without its version or alias."""
    infers = {one: Infer(one, max_body, aside) for one in endpoints.versions(name)}
    for path, one in endpoints.paths(name):
        router.add("POST", f"/v2/models/{path}/infer", infers[one])
    split = endpoints.split(name)
    if split is not None:
        shared = Infer(endpoints.find(name), max_body, aside, split.among(infers))
        shared.asked = (*shared.asked, *[one for one in infers if one is not shared.asked[0]])
        router.add("POST", f"/v2/models/{name}/infer", shared)


class Infer:
    """`POST …/infer` of one model version; with `split`, of several that one of them reads requests for."""

    def __init__(self, endpoint: Endpoint, max_body: int, aside: Aside, split: Split[Infer] | None = None) -> None:
        self._endpoint = endpoint
        self.asked: tuple[Endpoint, ...] = (endpoint,)
        self._max_body = max_body
        self._aside = aside
        self._split = split
        self._outputs = tuple([o.name for o in endpoint.manifest.outputs])
        self._texts = any(i.datatype == "BYTES" for i in endpoint.manifest.inputs)
        self._reader = Reader(endpoint.live.intake, self._outputs, endpoint.limits)
        self._fast = FastReader.of(endpoint.manifest.inputs, endpoint.limits)
        self.writer = Writer(endpoint.package)

    def __call__(self, request: Request) -> None:
        endpoint = self._endpoint
        inference: HttpInference
        read = monotonic()
        try:
            found = None
            body = request.body
            if self._fast is not None and len(body) < LARGE and (request.bare or _is_json(request)):
                found = self._fast.read(body)
            if found is not None:
                rows, id_ = found
                one = self if self._split is None else self._split.choose(rows, request.header(ENTITY_KEY))
                endpoint = one._endpoint
                due = request.received_at + endpoint.timeout if request.bare else deadline_of(endpoint, request)
                inference = _Plain(endpoint, request, rows, due, read)
                inference.writer = one.writer
                inference.id = id_
                if not request.bare:
                    inference.timed = wants_timing(request)
                    inference.priority = header_priority(request.header(PRIORITY_HEADER))
            else:
                json_size = _json_size(request)
                here = body_at_hand(request, self._max_body, json_size, self._texts)
                if here is None:
                    self._read_aside(request, json_size, read)
                    return
                rows, asked = self._reader.read(here, json_size)
                inference = self._asked(request, read, rows, asked)
                endpoint = inference.endpoint
        except TidemillError as error:
            endpoint.counters.failed(request.received_at, error.code, error.reason)
            reply_error(request, error)
            return
        inference.begin()

    def _asked(self, request: Request, read: float, rows: Rows, asked: Asked) -> _Asked:
        one = self if self._split is None else self._split.choose(rows, request.header(ENTITY_KEY))
        endpoint = one._endpoint
        due = deadline_of(endpoint, request, asked.timeout)
        inference = _Asked(endpoint, request, rows, due, read, one.writer, asked)
        inference.timed = wants_timing(request)
        inference.priority = asked.priority or header_priority(request.header(PRIORITY_HEADER))
        return inference

    def _read_aside(self, request: Request, json_size: int | None, read: float) -> None:
        def begin(rows: Rows, id_: str | None, outputs: list[Any], *more: Any) -> None:
            asked = Asked(id_, [(name, binary) for name, binary in outputs], *more)
            self._asked(request, read, rows, asked).begin()

        one = self._endpoint
        order = Order(
            form="oip",
            inputs=one.manifest.inputs,
            outputs=self._outputs,
            limits=one.limits,
            coding=request.header(b"content-encoding"),
            json_size=json_size,
            most=self._max_body,
        )
        read_aside(self._aside, self.asked, request, order, begin)


class _Plain(HttpInference):
    """All outputs as JSON, to a client that asked for nothing else but perhaps for compression."""

    __slots__ = ("id", "timed", "writer")

    id: str | None
    timed: bool

    def label(self) -> str:
        return self.id or HttpInference.label(self)

    writer: Writer

    def send(self, result: Result, start: int, stop: int, problems: Sequence[Problem]) -> float:
        body = self.writer.plain(result, start, stop)
        if self.id is not None:
            body = self.writer.with_id(body, self.id)
        encoded = monotonic()
        request = self.request
        if request.bare:
            request.reply(200, body)
        elif self.timed:
            reply_encoded(request, [body], headers=(server_timing(self, encoded),))
        elif len(body) < WORTH_COMPRESSING:
            request.reply(200, body)
        else:
            reply_encoded(request, [body])
        return encoded


class _Asked(HttpInference):
    """An answer as the request asked for it."""

    __slots__ = ("asked", "timed", "writer")

    timed: bool

    def __init__(
        self,
        endpoint: Endpoint,
        request: Request,
        rows: Rows,
        deadline: float,
        read: float,
        writer: Writer,
        asked: Asked,
    ) -> None:
        HttpInference.__init__(self, endpoint, request, rows, deadline, read, asked.partial)
        self.writer = writer
        self.asked = asked

    def label(self) -> str:
        return self.asked.id or HttpInference.label(self)

    def send(self, result: Result, start: int, stop: int, problems: Sequence[Problem]) -> float:
        asked = self.asked
        told = problems if asked.partial else None
        parts, json_size = self.writer.write(result, start, stop, asked.outputs, asked.id, told, self._timing)
        encoded = monotonic()
        headers = (server_timing(self, encoded),) if self.timed else ()
        if json_size is None:
            reply_encoded(self.request, parts, headers=headers)
        else:
            reply_encoded(self.request, parts, BINARY, ((JSON_SIZE, b"%d" % json_size), *headers))
        return encoded

    def _timing(self) -> dict[str, int]:
        return timing_parameters(self, monotonic()) if self.asked.timing else {}


def _is_json(request: Request) -> bool:
    """The body is JSON as it stands: not compressed, and no binary tensors follow."""
    return request.header(JSON_SIZE) is None and request.header(b"content-encoding") is None


def _json_size(request: Request) -> int | None:
    """How many bytes of the body are JSON, where the client says so."""
    value = request.header(JSON_SIZE)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise InputError(
            f"header Inference-Header-Content-Length: got {value.decode('latin-1')!r:.40}, expected an integer ≥ 0"
        )
    return int(value)
