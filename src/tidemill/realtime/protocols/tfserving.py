"""TensorFlow Serving's REST form, which is also KServe's V1: `:predict`, status and metadata.

https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any

import orjson

from tidemill.errors import Problem, TidemillError
from tidemill.model.signature import Input, Output
from tidemill.prediction.result import Result
from tidemill.realtime.answers import reply_encoded, reply_error
from tidemill.realtime.aside.reading import Aside, body_at_hand, read_aside
from tidemill.realtime.aside.wire import Order
from tidemill.realtime.endpoint import Endpoint, Endpoints
from tidemill.realtime.inference import ENTITY_KEY, PRIORITY_HEADER, HttpInference, deadline_of, header_priority
from tidemill.realtime.models.split import Split
from tidemill.realtime.protocols.cells import nested_cells
from tidemill.realtime.protocols.oip_response import row_errors
from tidemill.realtime.protocols.tfserving_request import SIGNATURE, PredictReader
from tidemill.realtime.request import Handler, Request
from tidemill.realtime.routes import Router, document
from tidemill.realtime.service import Service
from tidemill.realtime.timing import server_timing, wants_timing
from tidemill.rows import Rows

__all__ = ["add_tfserving"]

DTYPES = {"FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING"}


def add_tfserving(
    router: Router, service: Service, endpoints: Endpoints, name: str, max_body: int, aside: Aside
) -> None:
    """The paths of a model under /v1/models."""
    path = f"/v1/models/{name}"
    router.add("GET", path, _status(service, endpoints.versions(name)))
    for at, one in [(f"/v1/models/{written}", one) for written, one in endpoints.paths(name)]:
        if at != path:
            router.add("GET", at, _status(service, [one]))
        router.add("GET", f"{at}/metadata", document(partial(_metadata, one)))
        split = endpoints.split(name) if at == path else None
        predict = Predict(one, max_body, aside, split)
        if split is not None:
            predict.asked = (one, *[other for other in endpoints.versions(name) if other is not one])
        router.add("POST", f"{at}:predict", predict)


class Predict:
    """`POST …:predict` of one model version; with `split`, of several that one of them reads requests for."""

    def __init__(self, endpoint: Endpoint, max_body: int, aside: Aside, split: Split[Endpoint] | None = None) -> None:
        self._endpoint = endpoint
        self.asked: tuple[Endpoint, ...] = (endpoint,)
        self._split = split
        self._max_body = max_body
        self._aside = aside
        self._reader = PredictReader(endpoint.live.intake, endpoint.limits)

    def __call__(self, request: Request) -> None:
        read = monotonic()
        endpoint = self._endpoint
        try:
            here = body_at_hand(request, self._max_body, None, False)
            if here is None:
                self._read_aside(request, read)
                return
            inference = self._prediction(request, read, *self._reader.read(here))
            endpoint = inference.endpoint
        except TidemillError as error:
            endpoint.counters.failed(request.received_at, error.code, error.reason)
            reply_error(request, error)
            return
        inference.begin()

    def _prediction(self, request: Request, read: float, rows: Rows, by_row: bool, partial: bool) -> _Prediction:
        endpoint = self._endpoint
        if self._split is not None:
            endpoint = self._split.choose(rows, request.header(ENTITY_KEY))
        inference = _Prediction(endpoint, request, rows, deadline_of(endpoint, request), read, partial)
        inference.by_row = by_row
        inference.timed = wants_timing(request)
        inference.priority = header_priority(request.header(PRIORITY_HEADER))
        return inference

    def _read_aside(self, request: Request, read: float) -> None:
        def begin(rows: Rows, *wishes: Any) -> None:
            self._prediction(request, read, rows, *wishes).begin()

        one = self._endpoint
        order = Order(
            form="tfserving",
            inputs=one.manifest.inputs,
            outputs=(),
            limits=one.limits,
            coding=request.header(b"content-encoding"),
            json_size=None,
            most=self._max_body,
        )
        read_aside(self._aside, self.asked, request, order, begin)


class _Prediction(HttpInference):
    __slots__ = ("by_row", "timed")

    by_row: bool
    timed: bool

    def send(self, result: Result, start: int, stop: int, problems: Sequence[Problem]) -> float:
        bad = {p.row for p in problems}
        columns: dict[str, list[bytes]] = {}
        for output in self.endpoint.manifest.outputs:
            cells = _binary_cells(result, output) if output.binary else nested_cells(result, output.name)
            columns[output.name] = [b"null" if i in bad else c for i, c in enumerate(cells[start:stop])]
        if self.by_row:
            body = b'{"predictions":[%b]' % b",".join(_records(columns))
        else:
            body = b'{"outputs":%b' % _columns(columns)
        if self.partial:
            body += b"," + orjson.dumps(row_errors(problems))[1:]
        else:
            body += b"}"
        encoded = monotonic()
        reply_encoded(self.request, [body], headers=(server_timing(self, encoded),) if self.timed else ())
        return encoded


def _records(columns: dict[str, list[bytes]]) -> list[bytes]:
    """A value a row: bare where there is one output, else an object."""
    if len(columns) == 1:
        return next(iter(columns.values()))
    keys = [orjson.dumps(name) + b":" for name in columns]
    return [
        b"{%b}" % b",".join([key + cell for key, cell in zip(keys, row, strict=True)])
        for row in zip(*columns.values(), strict=True)
    ]


def _columns(columns: dict[str, list[bytes]]) -> bytes:
    """A tensor an output: bare where there is one, else in an object."""
    tensors = {name: b"[%b]" % b",".join(cells) for name, cells in columns.items()}
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    return b"{%b}" % b",".join([orjson.dumps(name) + b":" + tensor for name, tensor in tensors.items()])


def _binary_cells(result: Result, output: Output) -> list[bytes]:
    """Raw bytes as {"b64": …}."""

    def shown(value: Any) -> Any:
        if isinstance(value, list):
            return [shown(v) for v in value]
        return None if value is None else {"b64": base64.b64encode(value).decode()}

    return [orjson.dumps(shown(row)) for row in result.outputs.columns[output.name].tolist()]


def _status(service: Service, endpoints: list[Endpoint]) -> Handler:
    """TensorFlow Serving's version status and KServe's readiness in one body."""

    def status(request: Request) -> None:
        versions = []
        for one in endpoints:
            ready = service.model_ready(one)
            told = {"error_code": "OK", "error_message": ""} if ready else {"error_code": "UNAVAILABLE"}
            state = "AVAILABLE" if ready else "UNLOADING" if one.able else "START"
            versions.append({"version": one.version, "state": state, "status": {"error_message": "", **told}})
        latest = endpoints[-1]
        about = {"name": latest.name, "ready": service.model_ready(latest), "model_version_status": versions}
        request.reply(200, orjson.dumps(about))

    return status


def _metadata(endpoint: Endpoint) -> bytes:
    def tensor(one: Input | Output) -> dict[str, Any]:
        return {
            "dtype": DTYPES.get(one.datatype, f"DT_{one.datatype}"),
            "tensor_shape": {"dim": [{"size": str(d), "name": ""} for d in one.shape], "unknown_rank": False},
            "name": f"{one.name}:0",
        }

    manifest = endpoint.manifest
    signature = {
        "inputs": {i.name: tensor(i) for i in manifest.inputs},
        "outputs": {o.name: tensor(o) for o in manifest.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return orjson.dumps(
        {
            "model_spec": {"name": endpoint.name, "signature_name": "", "version": endpoint.version},
            "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
        }
    )
