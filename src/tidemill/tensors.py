"""The binary tensor extension: raw little-endian elements, BYTES as length-prefixed strings.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from tidemill.datatypes import DataType
from tidemill.errors import InputError
from tidemill.rows import Array

__all__ = ["decode_tensor", "encode_tensor"]

_LENGTH = struct.Struct("<I")


def decode_tensor(
    body: bytes,
    start: int,
    size: int,
    type_: DataType,
    shape: Sequence[int],
    name: str,
    *,
    binary: bool = False,
    sized_by: str = "binary_data_size",
) -> Array:
    """The tensor in `size` bytes of `body` from `start` on: an array of `shape`, a view where alignment allows.

    BYTES become str, or bytes with `binary`. Raises InputError where the bytes are not such a tensor; `sized_by` is
    what the protocol calls their number.
    """
    count = 1
    for d in shape:
        count *= d
    if type_.size == 0:
        return _strings(body, start, size, count, name, binary, sized_by).reshape(shape)
    if size != count * type_.size:
        raise InputError(
            f"{name}: {sized_by} is {size}, {type_.name} of shape {list(shape)} has {count * type_.size} bytes",
            field=name,
        )
    array: Array = np.frombuffer(body, type_.dtype.newbyteorder("<"), count, start)
    if type_.name == "BOOL" and count and int(array.view(np.uint8).max()) > 1:
        raise InputError(f"{name}: a BOOL element is a byte 0 or 1", field=name)
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def _strings(body: bytes, start: int, size: int, count: int, name: str, binary: bool, sized_by: str) -> Array:
    if size < 4 * count:
        raise InputError(f"{name}: {count} BYTES elements need at least {4 * count} bytes, got {size}", field=name)
    out = np.empty(count, np.object_)
    position, end = start, start + size
    for i in range(count):
        if position + 4 > end:
            raise InputError(f"{name}: binary data ends within the length of element {i} of {count}", field=name)
        (length,) = _LENGTH.unpack_from(body, position)
        position += 4
        if position + length > end:
            raise InputError(
                f"{name}: element {i} states {length} bytes, {end - position} are left of {sized_by}", field=name
            )
        value = body[position : position + length]
        position += length
        if binary:
            out[i] = value
        else:
            try:
                out[i] = value.decode()
            except UnicodeDecodeError:
                raise InputError(f"{name}: element {i} is not UTF-8 text", field=name, row=None) from None
    if position != end:
        raise InputError(f"{name}: {end - position} bytes are left after {count} BYTES elements", field=name)
    return out


def encode_tensor(array: Array) -> bytes:
    """The elements of an array in row-major order. None among BYTES is written as an empty string."""
    if array.dtype.kind != "O":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts: list[bytes] = []
    for value in array.reshape(-1).tolist():
        raw = value.encode() if isinstance(value, str) else value or b""
        parts += (_LENGTH.pack(len(raw)), raw)
    return b"".join(parts)
