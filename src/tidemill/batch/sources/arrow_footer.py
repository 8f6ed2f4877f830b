"""The footer of an Arrow IPC file: rows and size of each record batch without reading it, which PyArrow does not tell.

https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format; tables lie in it as FlatBuffers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["Block", "read_blocks"]

_MAGIC = b"ARROW1"
_CONTINUED = b"\xff\xff\xff\xff"
_BLOCK = struct.Struct("<qi4xq")
# Fields by their index in Message.fbs, Schema.fbs and File.fbs.
_FOOTER_BATCHES = 3
_MESSAGE_HEADER = 2
_BATCH_LENGTH, _BATCH_COMPRESSION = 0, 3


@dataclass(frozen=True, slots=True)
class Block:
    """A record batch: its rows, its bytes in the file, and whether these are compressed."""

    rows: int
    nbytes: int
    compressed: bool


def read_blocks(file: BinaryIO) -> list[Block]:
    """The record batches of a file. Raises ValueError for what is no whole Arrow file, OSError as the file does."""
    size = file.seek(0, 2)
    tail = _read(file, max(0, size - 10), 10)
    if tail[4:] != _MAGIC:
        raise ValueError("it does not end as an Arrow file does")
    length = int.from_bytes(tail[:4], "little")
    if not 0 < length <= size - 10:
        raise ValueError("its footer is damaged")
    try:
        footer = _read(file, size - 10 - length, length)
        return [_block(file, *_BLOCK.unpack_from(footer, at)) for at in _batches(footer)]
    except struct.error as error:
        raise ValueError("its footer is damaged") from error


def _batches(footer: bytes) -> range:
    """Where the blocks of record batches lie in the footer."""
    vector = _at(footer, _root(footer), _FOOTER_BATCHES)
    if vector is None:
        return range(0)
    start = vector + _uint(footer, vector)
    return range(start + 4, start + 4 + _uint(footer, start) * _BLOCK.size, _BLOCK.size)


def _block(file: BinaryIO, offset: int, length: int, body: int) -> Block:
    if offset < 0 or length < 8 or body < 0:
        raise ValueError("its footer is damaged")
    data = _read(file, offset, length)
    message = data[8:] if data[:4] == _CONTINUED else data[4:]
    header = _at(message, _root(message), _MESSAGE_HEADER)
    if header is None:
        raise ValueError("a record batch has no header")
    batch = header + _uint(message, header)
    rows = _at(message, batch, _BATCH_LENGTH)
    found = struct.unpack_from("<q", message, rows)[0] if rows is not None else 0
    if found < 0:
        raise ValueError("a record batch has less than no rows")
    return Block(found, body, _at(message, batch, _BATCH_COMPRESSION) is not None)


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise ValueError("it ends too early")
    return data


def _root(data: bytes) -> int:
    return _uint(data, 0)


def _at(data: bytes, table: int, index: int) -> int | None:
    """Where a field of a table lies, or None where it has its default."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise ValueError("its footer is damaged")
    if 4 + 2 * index >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * index)[0]
    return table + offset if offset else None


def _uint(data: bytes, at: int) -> int:
    found: int = struct.unpack_from("<I", data, at)[0]
    return found
