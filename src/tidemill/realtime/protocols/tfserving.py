"""TensorFlow Serving's REST form, which is also KServe's V1: `:predict`, status and metadata.

https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any

import orjson

from tidemill.errors import InputError, Problem, TidemillError, TooLarge
from tidemill.model.signature import Input, Output
from tidemill.prediction.cells import MAX_DIMENSIONS
from tidemill.prediction.result import Result
from tidemill.realtime.answers import body_of, reply_encoded, reply_error
from tidemill.realtime.endpoint import Endpoint, Endpoints
from tidemill.realtime.inference import ENTITY_KEY, PRIORITY_HEADER, HttpInference, deadline_of, header_priority
from tidemill.realtime.models.split import Split
from tidemill.realtime.protocols.cells import nested_cells
from tidemill.realtime.protocols.oip_request import kind, load_json, on_bad_row, parameters_of
from tidemill.realtime.protocols.oip_response import row_errors
from tidemill.realtime.request import Handler, Request
from tidemill.realtime.routes import Router, document
from tidemill.realtime.service import Service
from tidemill.realtime.timing import server_timing, wants_timing
from tidemill.rows import Rows

__all__ = ["add_tfserving"]

SIGNATURE = "serving_default"
DTYPES = {"FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING"}


def add_tfserving(router: Router, service: Service, endpoints: Endpoints, name: str, max_body: int) -> None:
    """The paths of a model under /v1/models."""
    path = f"/v1/models/{name}"
    router.add("GET", path, _status(service, endpoints.versions(name)))
    for at, one in [(f"/v1/models/{written}", one) for written, one in endpoints.paths(name)]:
        if at != path:
            router.add("GET", at, _status(service, [one]))
        router.add("GET", f"{at}/metadata", document(partial(_metadata, one)))
        split = endpoints.split(name) if at == path else None
        router.add("POST", f"{at}:predict", Predict(one, max_body, split))


class Predict:
    """`POST …:predict` of one model version; with `split`, of several that one of them reads requests for."""

    def __init__(self, endpoint: Endpoint, max_body: int, split: Split[Endpoint] | None = None) -> None:
        self._endpoint = endpoint
        self._split = split
        self._max_body = max_body
        self._intake = endpoint.live.intake
        self._raw = [i for i in endpoint.manifest.inputs if i.datatype == "BYTES"]

    def __call__(self, request: Request) -> None:
        read = monotonic()
        endpoint = self._endpoint
        try:
            doc = load_json(body_of(request, self._max_body))
            if not isinstance(doc, dict):
                raise InputError(f"the request is a JSON {kind(doc)}, expected an object")
            signature = doc.get("signature_name", SIGNATURE)
            if signature not in (SIGNATURE, ""):
                raise InputError(f"signature_name {signature!r:.80} is not known: the only one is {SIGNATURE!r}")
            if ("instances" in doc) == ("inputs" in doc):
                raise InputError("send either instances (row format) or inputs (columnar format)")
            by_row = "instances" in doc
            rows = self._instances(doc["instances"]) if by_row else self._inputs(doc["inputs"])
            partial = on_bad_row(parameters_of(doc, "the request"))
            if self._split is not None:
                endpoint = self._split.choose(rows, request.header(ENTITY_KEY))
            inference = _Prediction(endpoint, request, rows, deadline_of(endpoint, request), read, partial)
            inference.by_row = by_row
            inference.timed = wants_timing(request)
            inference.priority = header_priority(request.header(PRIORITY_HEADER))
        except TidemillError as error:
            endpoint.counters.failed(request.received_at, error.code, error.reason)
            reply_error(request, error)
            return
        inference.begin()

    def _instances(self, instances: Any) -> Rows:
        """Row format: an object of named values each, or bare values for a model with one input."""
        if not isinstance(instances, list):
            raise InputError(f"instances is a JSON {kind(instances)}, expected an array", field="instances")
        self._check_rows(len(instances))
        if not instances or (isinstance(instances[0], dict) and instances[0].keys() != {"b64"}):
            for one in self._raw:
                for record in instances:
                    if isinstance(record, dict) and one.name in record:
                        record[one.name] = _plain(record[one.name], one, MAX_DIMENSIONS)
            return self._intake.from_records(instances)
        return self._column(instances, "instances")

    def _inputs(self, inputs: Any) -> Rows:
        """Columnar format: an object of named tensors, or the bare tensor of a model with one input."""
        if isinstance(inputs, list):
            self._check_rows(len(inputs))
            return self._column(inputs, "inputs")
        if not isinstance(inputs, dict):
            raise InputError(f"inputs is a JSON {kind(inputs)}, expected an object of tensors", field="inputs")
        for name, values in inputs.items():
            if not isinstance(values, list):
                raise InputError(f"{name}: a JSON {kind(values)}, expected an array whose first axis is the rows", name)
            self._check_rows(len(values))
        for one in self._raw:
            if one.name in inputs:
                inputs[one.name] = _plain(inputs[one.name], one, MAX_DIMENSIONS)
        return self._intake.from_lists({name: (None, values) for name, values in inputs.items()})

    def _column(self, values: list[Any], where: str) -> Rows:
        inputs = self._intake.inputs
        if len(inputs) > 1:
            names = ", ".join(i.name for i in inputs)
            raise InputError(f"{where}: the model has {len(inputs)} inputs ({names}); name them", field=where)
        one = inputs[0]
        if one.datatype == "BYTES":
            values = _plain(values, one, MAX_DIMENSIONS)
        return self._intake.from_lists({one.name: (None, values)})

    def _check_rows(self, n: int) -> None:
        most = self._endpoint.limits.max_rows
        if n > most:
            raise TooLarge(f"{n} rows in one request; at most {most} are taken: send them in parts")


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


def _plain(value: Any, one: Input, depth: int) -> Any:
    """A value of a BYTES input with {"b64": …} decoded. Raises InputError for what is not base64, or not text."""
    if isinstance(value, list):
        return [_plain(v, one, depth - 1) for v in value] if depth else value
    if not isinstance(value, dict) or value.keys() != {"b64"} or not isinstance(value["b64"], str):
        return value
    try:
        raw = base64.b64decode(value["b64"], validate=True)
        return raw if one.binary else raw.decode()
    except (binascii.Error, ValueError) as error:
        what = "base64" if isinstance(error, binascii.Error) else "UTF-8 text in base64"
        raise InputError(f"{one.name}: a b64 value is not {what}", field=one.name) from None


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
