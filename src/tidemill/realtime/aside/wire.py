"""What a server and the process that reads for it tell each other, over a socket that only these two have."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from tidemill.errors import TidemillError
from tidemill.model.signature import Input
from tidemill.realtime.options import RequestLimits
from tidemill.realtime.replicas.messages import Failed, failed, raised
from tidemill.rows import Array, Rows

__all__ = ["Found", "Order", "receive_found", "receive_order", "send_found", "send_order"]

# Values of an object column that are made in one go: the interpreter's lock is held meanwhile.
PIECE = 4096
_SIZE = struct.Struct("<Q")

Found = tuple[Rows, list[Any]] | TidemillError
"""The rows of a body and what else it says, in the terms of its protocol, or why it cannot be understood."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """How a body is to be read: by which protocol, for which inputs and outputs (their names), and within which limits.

    `coding` is its Content-Encoding, which may make `most` bytes of it; `json_size` how many of them are JSON.
    """

    form: Literal["oip", "tfserving"]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    limits: RequestLimits
    coding: bytes | None
    json_size: int | None
    most: int


class _Column(msgspec.Struct, frozen=True, kw_only=True):
    """An array that follows: its bytes, or its objects in lists of `PIECE`, each with its size before it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    n: int = 0
    wishes: list[Any] = []
    columns: tuple[_Column, ...] = ()
    valid: tuple[_Column, ...] = ()
    error: Failed | None = None


_encode = msgspec.msgpack.encode


def send_order(to: socket.socket, order: Order, body: bytes) -> None:
    """Raises OSError where the other side is gone, or does not take it in the socket's time."""
    _send(to, _encode(order))
    _send(to, body)


def receive_order(of: socket.socket) -> tuple[Order, bytes]:
    """Raises EOFError when there will be none any more."""
    order = msgspec.msgpack.decode(_receive(of), type=Order)
    return order, bytes(_receive(of))


def send_found(to: socket.socket, found: Found) -> None:
    """Raises OSError where the other side is gone."""
    if isinstance(found, TidemillError):
        _send(to, _encode(_Told(error=failed(found))))
        return
    rows, wishes = found
    _send(to, _encode(_Told(n=rows.n, wishes=wishes, columns=_columns(rows.columns), valid=_columns(rows.valid))))
    for array in (*rows.columns.values(), *rows.valid.values()):
        flat = np.ascontiguousarray(array).reshape(-1)
        if flat.dtype.kind != "O":
            to.sendall(flat.view(np.uint8).data)
        else:
            for start in range(0, len(flat), PIECE):
                _send(to, _encode(flat[start : start + PIECE].tolist()))


def receive_found(of: socket.socket) -> Found:
    """Raises OSError or EOFError where the other side is gone, or says nothing in the socket's time."""
    told = msgspec.msgpack.decode(_receive(of), type=_Told)
    if told.error is not None:
        return raised(told.error)
    columns = {one.name: _array(of, one) for one in told.columns}
    return Rows(columns, told.n, {one.name: _array(of, one) for one in told.valid}), told.wishes


def _columns(arrays: Mapping[str, Array]) -> tuple[_Column, ...]:
    return tuple(_Column(name=name, dtype=array.dtype.str, shape=array.shape) for name, array in arrays.items())


def _array(of: socket.socket, column: _Column) -> Array:
    array: Array = np.empty(column.shape, column.dtype)
    flat = array.reshape(-1)
    if flat.dtype.kind != "O":
        _fill(of, flat.view(np.uint8).data)
    else:
        for start in range(0, len(flat), PIECE):
            flat[start : start + PIECE] = msgspec.msgpack.decode(_receive(of))
    return array


def _send(to: socket.socket, data: bytes) -> None:
    to.sendall(_SIZE.pack(len(data)))
    to.sendall(data)


def _receive(of: socket.socket) -> bytearray:
    head = bytearray(_SIZE.size)
    _fill(of, memoryview(head))
    data = bytearray(_SIZE.unpack(head)[0])
    _fill(of, memoryview(data))
    return data


def _fill(of: socket.socket, view: memoryview) -> None:
    while len(view):
        got = of.recv_into(view)
        if not got:
            raise EOFError("the other side is gone")
        view = view[got:]
