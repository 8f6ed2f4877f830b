"""Reads of an ONNX file what ONNX Runtime does not tell: operators, class labels, external data, versions.

The format is protocol buffers (onnx.proto, field numbers below); a walk over the wire format of the few fields
needed keeps the `onnx` package out of the core.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.errors import PackageError

__all__ = ["OnnxFile", "read_onnx_file"]

# onnx.proto: Model.graph, .opset_import, .functions; Graph.node, .initializer, .sparse_initializer; Node.op_type,
# .attribute; Attribute.name, .t, .g, .ints, .strings, .tensors, .graphs; Tensor.external_data; Sparse.values, .indices.
_IR, _OPSET, _GRAPH, _FUNCTION = 1, 8, 7, 25
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_FUNCTION_NODE = 7
_OP_TYPE, _ATTRIBUTE = 4, 5
_A_NAME, _A_TENSOR, _A_GRAPH, _A_INTS, _A_STRINGS, _A_TENSORS, _A_GRAPHS = 1, 5, 6, 8, 9, 10, 11
_EXTERNAL = 13

Field = tuple[int, "int | memoryview"]


@dataclass(slots=True)
class OnnxFile:
    """`opsets` by domain ("" is ai.onnx). `labels` are the class labels of the last classifier in the graph."""

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)
    labels: tuple[str, ...] = ()
    external: set[str] = field(default_factory=set)


def read_onnx_file(path: Path) -> OnnxFile:
    """Walk the file once. Raises PackageError for what is not an ONNX model."""
    found = OnnxFile()
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)
            try:
                _model(view, found)
            finally:
                view.release()
    except (ValueError, IndexError, UnicodeDecodeError, TypeError, BufferError):
        raise PackageError(f"{path.name}: not an ONNX model (its protocol buffer cannot be read)") from None
    if not found.operators:
        raise PackageError(f"{path.name}: not an ONNX model (no graph with operators in it)")
    return found


def _model(view: memoryview, found: OnnxFile) -> None:
    for number, value in _fields(view):
        if number == _IR and isinstance(value, int):
            found.ir_version = value
        elif isinstance(value, int):
            continue
        elif number == _OPSET:
            parts = dict(_fields(value))
            domain, version = parts.get(1), parts.get(2, 0)
            name = _text(domain) if isinstance(domain, memoryview) else ""
            found.opsets[name] = version if isinstance(version, int) else 0
        elif number == _GRAPH:
            _graph(value, found)
        elif number == _FUNCTION:
            for inner, part in _fields(value):
                if inner == _FUNCTION_NODE and not isinstance(part, int):
                    _node(part, found)


def _graph(view: memoryview, found: OnnxFile) -> None:
    for number, value in _fields(view):
        if isinstance(value, int):
            continue
        if number == _NODE:
            _node(value, found)
        elif number == _INITIALIZER:
            _tensor(value, found)
        elif number == _SPARSE:
            for inner, part in _fields(value):
                if inner in (1, 2) and not isinstance(part, int):
                    _tensor(part, found)


def _node(view: memoryview, found: OnnxFile) -> None:
    for number, value in _fields(view):
        if isinstance(value, int):
            continue
        if number == _OP_TYPE:
            found.operators.add(_text(value))
        elif number == _ATTRIBUTE:
            _attribute(value, found)


def _attribute(view: memoryview, found: OnnxFile) -> None:
    parts = list(_fields(view))
    name = next((_text(v) for n, v in parts if n == _A_NAME and not isinstance(v, int)), "")
    # Linear models and SVMs say classlabels_ints, trees classlabels_int64s, all of them classlabels_strings.
    if name.startswith("classlabels_"):
        strings = [_text(v) for n, v in parts if n == _A_STRINGS and not isinstance(v, int)]
        found.labels = tuple(strings or map(str, _ints(parts))) or found.labels
    for number, value in parts:
        if isinstance(value, int):
            continue
        if number in (_A_TENSOR, _A_TENSORS):
            _tensor(value, found)
        elif number in (_A_GRAPH, _A_GRAPHS):
            _graph(value, found)


def _ints(parts: list[Field]) -> Iterator[int]:
    for number, value in parts:
        if number != _A_INTS:
            continue
        if isinstance(value, int):
            yield _signed(value)
        else:  # packed
            at = 0
            while at < len(value):
                one, at = _varint(value, at)
                yield _signed(one)


def _tensor(view: memoryview, found: OnnxFile) -> None:
    for number, value in _fields(view):
        if number == _EXTERNAL and not isinstance(value, int):
            pair = {n: _text(v) for n, v in _fields(value) if not isinstance(v, int)}
            if pair.get(1) == "location":
                found.external.add(pair.get(2, ""))


def _fields(view: memoryview) -> Iterator[Field]:
    """Each field of a message: its number, and its varint or its bytes. Fixed-width numbers are stepped over."""
    at, end = 0, len(view)
    while at < end:
        key, at = _varint(view, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(view, at)
            yield number, value
        elif wire == 2:
            size, at = _varint(view, at)
            if at + size > end:
                raise ValueError
            yield number, view[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(view: memoryview) -> str:
    return bytes(view).decode()
