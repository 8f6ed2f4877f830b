"""Protocol buffer integers: single ones, and whole packed fields at a time.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import numpy as np

from tidemill.rows import Array

__all__ = ["Unusual", "length_at", "packed_varints", "varint", "varint_at"]

# A size has up to five bytes; those of messages that are accepted at all have four.
_SIZE_BYTES = 4


class Unusual(Exception):
    """Bytes that are left to protobuf's own parser: wrong, or written in a way that hardly any encoder does."""


def varint(value: int) -> bytes:
    """The encoding of an integer from 0 to 2^64 - 1."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_at(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned integer and the place after it. Raises Unusual, or IndexError past the end of `data`."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise Unusual
            return value, at
        shift += 7
        if shift > 63:
            raise Unusual


def length_at(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Where a length-delimited field begins and ends, whose size is at `at`; it ends before `stop`."""
    size = data[at]
    at += 1
    if size > 0x7F:
        size &= 0x7F
        for shift in range(7, 7 * _SIZE_BYTES, 7):
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            raise Unusual
    end = at + size
    if end > stop:
        raise Unusual
    return at, end


def packed_varints(data: bytes, start: int, stop: int) -> Array:
    """The integers of a packed field: UINT64 of shape (n,). Raises Unusual."""
    raw = np.frombuffer(data, np.uint8, stop - start, start)
    last = raw < 0x80
    if last.all():
        return raw.astype(np.uint64)
    if not last[-1]:
        raise Unusual
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    place = np.arange(len(raw)) - np.repeat(starts, lengths)
    if lengths.max() > 10 or bool((raw[place == 9] > 1).any()):
        raise Unusual
    bits = (raw & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, starts)
