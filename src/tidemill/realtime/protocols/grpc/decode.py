"""ModelInferRequest: from bytes straight into arrays, or through the message classes, to one and the same form.

Packed contents are read where they lie, and raw contents not at all: only their places are noted. What an encoder
hardly ever writes (unpacked or split fields, unknown ones) and what is malformed is left to the message classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidemill.realtime.protocols.grpc.messages import DecodeError, message
from tidemill.realtime.protocols.grpc.varints import Unusual, length_at, packed_varints, varint_at
from tidemill.rows import Array

__all__ = ["CONTENTS", "Contents", "DecodeError", "InferRequest", "Tensor", "decode", "decode_quickly", "parameters_of"]

Contents = Array | list[bytes]

# Of InferTensorContents: field number → its name, and how one element lies in memory (None: bytes).
CONTENTS: dict[int, tuple[str, np.dtype[Any] | None]] = {
    1: ("bool_contents", np.dtype(np.bool_)),
    2: ("int_contents", np.dtype(np.int32)),
    3: ("int64_contents", np.dtype(np.int64)),
    4: ("uint_contents", np.dtype(np.uint32)),
    5: ("uint64_contents", np.dtype(np.uint64)),
    6: ("fp32_contents", np.dtype(np.float32)),
    7: ("fp64_contents", np.dtype(np.float64)),
    8: ("bytes_contents", None),
}

Parameters = dict[str, Any]


@dataclass(slots=True)
class Tensor:
    """An input: `contents` by field number of InferTensorContents, each flat; those that are empty are left out."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters
    contents: dict[int, Contents]


@dataclass(slots=True)
class InferRequest:
    """A ModelInferRequest. `outputs` are (name, parameters); `raw` are (bytes, start, size), in order of the inputs."""

    model: str = ""
    version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[tuple[str, Parameters]] = field(default_factory=list)
    raw: list[tuple[bytes, int, int]] = field(default_factory=list)


def decode(data: bytes, start: int = 0) -> InferRequest:
    """The request in the bytes from `start` on. Raises DecodeError where they are no such message."""
    found = decode_quickly(data, start)
    return _from_message(data[start:] if start else data) if found is None else found


def decode_quickly(data: bytes, start: int = 0) -> InferRequest | None:
    """As `decode`, but None for what is left to the message classes."""
    try:
        return _request(data, start, len(data))
    except (Unusual, IndexError, UnicodeDecodeError):
        return None


# -- straight from bytes -------------------------------------------------------------------------------------


def _request(data: bytes, at: int, stop: int) -> InferRequest:
    found = InferRequest()
    while at < stop:
        tag = data[at]
        at, end = length_at(data, at + 1, stop)
        if tag == 0x0A:
            found.model = data[at:end].decode()
        elif tag == 0x12:
            found.version = data[at:end].decode()
        elif tag == 0x1A:
            found.id = data[at:end].decode()
        elif tag == 0x22:
            _parameter(data, at, end, found.parameters)
        elif tag == 0x2A:
            found.inputs.append(_tensor(data, at, end))
        elif tag == 0x32:
            found.outputs.append(_output(data, at, end))
        elif tag == 0x3A:
            found.raw.append((data, at, end - at))
        else:
            raise Unusual
        at = end
    return found


def _tensor(data: bytes, at: int, stop: int) -> Tensor:
    name = datatype = ""
    shape: list[int] | None = None
    parameters: Parameters = {}
    contents: dict[int, Contents] | None = None
    while at < stop:
        tag = data[at]
        at, end = length_at(data, at + 1, stop)
        if tag == 0x0A:
            name = data[at:end].decode()
        elif tag == 0x12:
            datatype = data[at:end].decode()
        elif tag == 0x1A and shape is None:
            shape = packed_varints(data, at, end).view(np.int64).tolist() if end - at > 16 else _ints(data, at, end)
        elif tag == 0x22:
            _parameter(data, at, end, parameters)
        elif tag == 0x2A and contents is None:
            contents = _contents(data, at, end)
        else:
            raise Unusual
        at = end
    return Tensor(name, datatype, shape or [], parameters, contents or {})


def _ints(data: bytes, at: int, stop: int) -> list[int]:
    found = []
    while at < stop:
        value, at = varint_at(data, at)
        found.append(value - (1 << 64) if value >> 63 else value)
    if at != stop:
        raise Unusual
    return found


def _output(data: bytes, at: int, stop: int) -> tuple[str, Parameters]:
    name = ""
    parameters: Parameters = {}
    while at < stop:
        tag = data[at]
        at, end = length_at(data, at + 1, stop)
        if tag == 0x0A:
            name = data[at:end].decode()
        elif tag == 0x12:
            _parameter(data, at, end, parameters)
        else:
            raise Unusual
        at = end
    return name, parameters


def _parameter(data: bytes, at: int, stop: int, into: Parameters) -> None:
    """One entry of a map of parameters: a key, then an InferParameter of one field."""
    if data[at] != 0x0A:
        raise Unusual
    at, end = length_at(data, at + 1, stop)
    key = data[at:end].decode()
    if data[end] != 0x12:
        raise Unusual
    at, end = length_at(data, end + 1, stop)
    if end != stop or at == end:
        raise Unusual
    tag = data[at]
    value: Any
    if tag == 0x1A:
        at, after = length_at(data, at + 1, end)
        value = data[at:after].decode()
    elif tag == 0x21:
        after = at + 9
        value = float(np.frombuffer(data[at + 1 : after], "<f8")[0]) if after == end else None
    elif tag in (0x08, 0x10, 0x28):
        value, after = varint_at(data, at + 1)
        if tag == 0x08:
            value = value != 0
        elif tag == 0x10 and value >> 63:
            value -= 1 << 64
    else:
        raise Unusual
    if after != end:
        raise Unusual
    into[key] = value


def _contents(data: bytes, at: int, stop: int) -> dict[int, Contents]:
    found: dict[int, Contents] = {}
    texts: list[bytes] = []
    while at < stop:
        number, kind = data[at] >> 3, data[at] & 7
        at, end = length_at(data, at + 1, stop)
        if kind != 2 or not 1 <= number <= 8 or number in found:
            raise Unusual
        if number == 8:
            texts.append(data[at:end])
        elif end > at:
            found[number] = _packed(number, data, at, end)
        at = end
    if texts:
        found[8] = texts
    return found


def _packed(number: int, data: bytes, start: int, stop: int) -> Array:
    dtype = CONTENTS[number][1]
    if dtype is None:
        raise Unusual
    if dtype.kind == "f":
        if (stop - start) % dtype.itemsize:
            raise Unusual
        array: Array = np.frombuffer(data, dtype.newbyteorder("<"), (stop - start) // dtype.itemsize, start)
        return array if array.flags.aligned else array.copy()
    whole = packed_varints(data, start, stop)
    # As protobuf does: the low bits of an integer that is too wide, and any bit of a boolean.
    return whole.astype(dtype) if dtype.kind in "ub" else whole.view(np.int64).astype(dtype)


# -- through the message classes -----------------------------------------------------------------------------


def _from_message(data: bytes) -> InferRequest:
    parsed = message("inference.ModelInferRequest").FromString(data)
    return InferRequest(
        parsed.model_name,
        parsed.model_version,
        parsed.id,
        parameters_of(parsed.parameters),
        [
            Tensor(t.name, t.datatype, list(t.shape), parameters_of(t.parameters), dict(_listed(t.contents)))
            for t in parsed.inputs
        ],
        [(o.name, parameters_of(o.parameters)) for o in parsed.outputs],
        [(raw, 0, len(raw)) for raw in parsed.raw_input_contents],
    )


def parameters_of(parameters: Mapping[str, Any]) -> Parameters:
    """A map of InferParameter (or the like) as Python values; one without a value is None."""
    found: Parameters = {}
    for key, value in parameters.items():
        which = value.WhichOneof("parameter_choice")
        found[key] = None if which is None else getattr(value, which)
    return found


def _listed(contents: Any) -> Iterable[tuple[int, Contents]]:
    for number, (name, dtype) in CONTENTS.items():
        values = getattr(contents, name)
        if len(values):
            yield number, list(values) if dtype is None else np.array(values, dtype)
