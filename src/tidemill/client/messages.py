"""Requests and answers of the Open Inference Protocol, seen from the client: rows to bytes, bytes to outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tidemill.client.retries import retry_after
from tidemill.client.steps import Lost, Reply
from tidemill.datatypes import DATATYPES, datatype
from tidemill.errors import (
    Disconnected,
    Forbidden,
    InputError,
    Late,
    ModelError,
    NotFound,
    Overloaded,
    Problem,
    TidemillError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedEncoding,
)
from tidemill.model.signature import Column, Input, Output
from tidemill.prediction.cells import array_from_list, flatten
from tidemill.prediction.exchange import Prediction
from tidemill.prediction.intake import Intake
from tidemill.prediction.result import rows_error
from tidemill.rows import VALID, Array, Rows
from tidemill.tensors import decode_tensor, encode_tensor

__all__ = ["JSON_SIZE", "Signature", "error_of", "infer_request", "prediction_of", "signature_of"]

JSON_SIZE = "inference-header-content-length"
ERRORS: dict[int, type[TidemillError]] = {
    400: InputError,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    413: TooLarge,
    415: UnsupportedEncoding,
    422: InputError,
    500: ModelError,
    504: Late,
}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a server told of a model: how rows become its inputs, its outputs, and whether calls may be repeated."""

    intake: Intake
    outputs: dict[str, Output]
    repeatable: bool


def signature_of(reply: Reply) -> Signature:
    """A model's metadata. Raises TidemillError where it cannot be read."""
    try:
        told = orjson.loads(reply.body)
        inputs = [_input(tensor) for tensor in told["inputs"]]
        outputs = [
            Output(name=t["name"], datatype=datatype(t["datatype"]).name, shape=_shape(t), binary=_binary(t))
            for t in told["outputs"]
        ]
        repeatable = (told.get("parameters") or {}).get("repeatable") is True
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise TidemillError(f"the server's metadata of the model cannot be read: {error!r:.200}") from None
    return Signature(Intake(inputs), {one.name: one for one in outputs}, repeatable)


def infer_request(
    rows: Rows, signature: Signature, outputs: Sequence[str] | None, priority: int, binary: bool
) -> tuple[dict[str, str], bytes]:
    """Headers and body. Bad rows are always asked for one by one, so that they are known by row, not by text."""
    parameters: dict[str, Any] = {"on_bad_row": "partial"}
    if priority:
        parameters["priority"] = priority
    if binary and outputs is None:
        parameters["binary_data_output"] = True
    tensors: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, array in rows.columns.items():
        mask = rows.valid.get(name)
        if mask is None and array.dtype.kind == "O" and any(v is None for v in array.reshape(-1).tolist()):
            mask = np.array([v is not None for v in array.reshape(-1).tolist()], np.bool_).reshape(array.shape)
        type_ = signature.intake.by_name[name].datatype
        if not binary:
            tensors.append(_head(name, type_, array) | {"data": _cells(name, array, mask)})
            continue
        for sent, of, values in ((name, type_, array), (name + VALID, "BOOL", mask)):
            if values is not None:
                raw.append(encode_tensor(values))
                tensors.append(_head(sent, of, values) | {"parameters": {"binary_data_size": len(raw[-1])}})
    document: dict[str, Any] = {"parameters": parameters, "inputs": tensors}
    if outputs is not None:
        document["outputs"] = [{"name": one, "parameters": {"binary_data": binary}} for one in outputs]
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return {"content-type": "application/json"}, header
    headers = {"content-type": "application/octet-stream", JSON_SIZE: str(len(header))}
    return headers, b"".join((header, *raw))


def prediction_of(reply: Reply, signature: Signature, n: int, partial: bool) -> Prediction:
    """The answer to n rows. Raises RowsRejected, ModelError or Late for rows without one, unless `partial`; and
    TidemillError where it cannot be read.
    """
    try:
        size = reply.headers.get(JSON_SIZE)
        at = len(reply.body) if size is None else int(size)
        told = orjson.loads(memoryview(reply.body)[:at])
        bad = (told.get("parameters") or {}).get("row_errors") or []
        problems = tuple(Problem(int(p["row"]), p["code"], p["field"], p["message"]) for p in bad)
        statuses = ["ok"] * n
        for one in bad:
            statuses[one["row"]] = one["status"]
        arrays: dict[str, Array] = {}
        for tensor in told["outputs"]:
            name, length = tensor["name"], (tensor.get("parameters") or {}).get("binary_data_size")
            output = signature.outputs[name]
            if length is None:
                arrays[name] = _listed(tensor, output)
            else:
                arrays[name] = decode_tensor(
                    reply.body, at, length, output.type, tensor["shape"], name, binary=output.binary
                )
                at += length
            if len(arrays[name]) != n:
                raise ValueError(f"{name} has {len(arrays[name])} rows of {n}")
    except (ValueError, LookupError, TypeError, AttributeError, InputError) as error:
        raise TidemillError(f"the server's answer cannot be read: {error!r:.200}") from None
    if problems and not partial:
        raise rows_error(problems, n)
    return Prediction(arrays, problems, tuple(statuses), tuple(signature.outputs[name] for name in arrays))


def error_of(failed: Reply | Lost) -> TidemillError:
    """What a failed request is in the tree of errors."""
    if isinstance(failed, Lost):
        if failed.late:
            return Late(f"no answer before the deadline: {failed.reason}")
        if not failed.sent:
            return Unavailable(f"the server cannot be reached: {failed.reason}")
        return Disconnected(f"the connection was lost before the answer: {failed.reason}")
    text = _text(failed)
    wait = retry_after(failed.headers)
    if failed.status in (429, 503):
        kind = Overloaded if failed.status == 429 else Unavailable
        return kind(text) if wait is None else kind(text, wait)
    found = ERRORS.get(failed.status)
    return found(text) if found is not None else TidemillError(f"{failed.status}: {text}")


def _text(reply: Reply) -> str:
    try:
        text = orjson.loads(reply.body)["error"]
    except (ValueError, LookupError, TypeError):
        text = None
    if isinstance(text, str):
        return text
    return re.sub(r"\s+", " ", reply.body[:300].decode(errors="replace")).strip() or f"HTTP status {reply.status}"


def _input(tensor: dict[str, Any]) -> Input:
    columns = orjson.loads((tensor.get("parameters") or {}).get("columns", "[]"))
    return Input(
        name=tensor["name"],
        datatype=datatype(tensor["datatype"]).name,
        shape=_shape(tensor),
        binary=_binary(tensor),
        columns=tuple(Column(name=name) for name in columns),
    )


def _shape(tensor: dict[str, Any]) -> tuple[int, ...]:
    """The first axis is the rows, however many a server says that it takes."""
    return (-1, *(int(d) for d in tensor["shape"][1:]))


def _binary(tensor: dict[str, Any]) -> bool:
    return (tensor.get("parameters") or {}).get("binary") is True


def _head(name: str, type_: str, array: Array) -> dict[str, Any]:
    return {"name": name, "datatype": type_, "shape": list(array.shape)}


def _cells(name: str, array: Array, mask: Array | None) -> Any:
    """Values as JSON has them, flat: missing cells and NaN are null. Raises InputError for bytes that are no text."""
    if array.dtype.kind == "O":
        cells = array.reshape(-1).tolist()
        if any(isinstance(cell, bytes) for cell in cells):
            raise InputError(f"{name}: raw bytes go in binary tensors only: make the client with binary=True", name)
        return cells
    if mask is None:
        return np.ascontiguousarray(array.reshape(-1))
    there = zip(array.reshape(-1).tolist(), mask.reshape(-1).tolist(), strict=True)
    return [cell if known else None for cell, known in there]


def _listed(tensor: dict[str, Any], output: Output) -> Array:
    """An output in JSON; null is a filler: NaN, 0 or None."""
    shape = [int(d) for d in tensor["shape"]]
    flat = flatten(tensor["data"], shape, output.name)
    type_ = DATATYPES[output.datatype]
    width = len(flat) // max(1, shape[0])
    array, _ = array_from_list(flat, type_, output.name, nullable=True, binary=output.binary, width=width)
    return array.reshape(shape)
