"""A small Open Inference Protocol client on the standard library: rows out as JSON or binary tensors, answers back.

Written apart from the server's own codec, so that the two check each other.
"""

from __future__ import annotations

import http.client
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from tidemill.errors import ModelError
from tidemill.model.signature import Input, Output
from tidemill.rows import VALID, Array, Rows

__all__ = ["TIMEOUT", "Client", "binary_body", "json_body", "read_response"]

HEADER_LENGTH = "Inference-Header-Content-Length"
# Microseconds that an answer may take: what is asked for is the values, however busy this machine is. The package's own
# objective would have a server refuse them.
TIMEOUT = 60_000_000
_ASKED = {"on_bad_row": "partial", "timeout": TIMEOUT}


class Client:
    """One keep-alive connection to a server on this machine. Not for use by two threads at once."""

    def __init__(self, host: str, port: int, timeout: float = 60.0) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout)

    def close(self) -> None:
        self._connection.close()

    def ready(self) -> bool:
        """Whether the server says it is ready; False also where nobody listens."""
        try:
            self._connection.request("GET", "/v2/health/ready")
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False
        return answer.status == 200

    def infer(self, model: str, body: bytes, header_length: int | None = None) -> tuple[dict[str, Any], bytes]:
        """POST an inference request; the response's JSON and the binary part behind it.

        Raises ModelError with what the server said unless the status is 200.
        """
        headers = {"Content-Type": "application/json" if header_length is None else "application/octet-stream"}
        if header_length is not None:
            headers[HEADER_LENGTH] = str(header_length)
        self._connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise ModelError(f"HTTP {answer.status}: {content[:2000].decode(errors='replace')}")
        size = int(answer.headers.get(HEADER_LENGTH) or len(content))
        return orjson.loads(content[:size]), content[size:]


def json_body(inputs: Sequence[Input], rows: Rows) -> bytes:
    """The request with every value in JSON: missing cells are null."""
    tensors = [
        {
            "name": one.name,
            "datatype": one.datatype,
            "shape": list(rows[one.name].shape),
            "data": _json_data(rows[one.name], rows.valid.get(one.name)),
        }
        for one in inputs
    ]
    return orjson.dumps({"inputs": tensors, "parameters": _ASKED})


def binary_body(inputs: Sequence[Input], rows: Rows) -> tuple[bytes, int]:
    """The request with raw tensors behind its JSON, and the length of that JSON.

    Missing integers, booleans and BYTES are told by a BOOL tensor `NAME.valid`; a missing float is NaN.
    """
    tensors: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for one in inputs:
        array = rows[one.name]
        mask = rows.valid.get(one.name)
        if array.dtype.kind == "O":
            present = np.array([v is not None for v in array.reshape(-1)], np.bool_).reshape(array.shape)
            mask = None if present.all() else present
        _append(tensors, parts, one.name, one.datatype, array)
        if mask is not None:
            _append(tensors, parts, one.name + VALID, "BOOL", mask)
    header = orjson.dumps({"inputs": tensors, "parameters": _ASKED | {"binary_data_output": True}})
    return header + b"".join(parts), len(header)


def read_response(outputs: Sequence[Output], response: dict[str, Any], rest: bytes) -> dict[str, Array]:
    """The response's outputs by name, each of the declared datatype. Raises ModelError where one is missing."""
    declared = {o.name: o for o in outputs}
    found: dict[str, Array] = {}
    at = 0
    for tensor in response["outputs"]:
        name, shape = tensor["name"], tensor["shape"]
        size = tensor.get("parameters", {}).get("binary_data_size")
        output = declared.get(name)
        if output is not None and tensor["datatype"] != output.datatype:
            raise ModelError(f"output {name!r} came as {tensor['datatype']}, declared {output.datatype}")
        if output is not None and size is None:
            found[name] = _from_json(tensor["data"], output).reshape(shape)
        elif output is not None:
            found[name] = _from_bytes(rest[at : at + size], output).reshape(shape)
        at += size or 0
    absent = declared.keys() - found.keys()
    if absent:
        raise ModelError(f"the response lacks the outputs {', '.join(sorted(absent))}")
    return found


def _append(tensors: list[dict[str, Any]], parts: list[bytes], name: str, datatype: str, array: Array) -> None:
    if array.dtype.kind == "O":
        values = [b"" if v is None else v if isinstance(v, bytes) else str(v).encode() for v in array.reshape(-1)]
        raw = b"".join(struct.pack("<I", len(v)) + v for v in values)
    else:
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    tensors.append(
        {
            "name": name,
            "datatype": datatype,
            "shape": list(array.shape),
            "parameters": {"binary_data_size": len(raw)},
        }
    )
    parts.append(raw)


def _json_data(array: Array, mask: Array | None) -> list[Any]:
    flat = array.reshape(-1)
    if array.dtype.kind == "O":
        return [v.decode() if isinstance(v, bytes) else v for v in flat]
    if array.dtype.kind == "f":
        return [None if v != v else v for v in flat.tolist()]
    if mask is None:
        plain: list[Any] = flat.tolist()
        return plain
    return [v if ok else None for v, ok in zip(flat.tolist(), mask.reshape(-1).tolist(), strict=True)]


def _from_json(data: list[Any], output: Output) -> Array:
    while data and isinstance(data[0], list):
        data = [v for part in data for v in part]
    if output.datatype == "BYTES":
        out = np.empty(len(data), np.object_)
        out[:] = [v.encode() if output.binary and v is not None else v for v in data]
        return out
    blank = np.nan if output.type.is_float else 0
    return np.array([blank if v is None else v for v in data], output.type.dtype)


def _from_bytes(raw: bytes, output: Output) -> Array:
    if output.datatype != "BYTES":
        return np.frombuffer(raw, output.type.dtype.newbyteorder("<")).astype(output.type.dtype, copy=False)
    values: list[Any] = []
    at = 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        value = raw[at + 4 : at + 4 + size]
        values.append(value if output.binary else value.decode())
        at += 4 + size
    out = np.empty(len(values), np.object_)
    out[:] = values
    return out
