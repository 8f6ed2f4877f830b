"""Tensors as the protocol writes them: made from metadata, in JSON, in raw bytes, in gRPC's typed contents.

Written apart from the server's own codec, so that the two check each other.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tidemill.assurance.conformance.case import Failed, Skipped, expect, of
from tidemill.datatypes import DATATYPES
from tidemill.rows import Array

__all__ = [
    "CONTENTS",
    "Spec",
    "Tensor",
    "differ",
    "edges",
    "from_contents",
    "from_json",
    "from_raw",
    "make",
    "specs",
    "unusual",
]

# What a dimension of any size is in a sample: two show an order, and are cheap.
ANY = 2
MOST = 1 << 20
TOLERANCE = {"FP16": 1e-3, "FP32": 1e-6, "FP64": 1e-12}
KINDS: dict[str, tuple[type, ...]] = {"boolean": (bool,), "string": (str,), "integer": (int,), "number": (int, float)}
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor as metadata describes it; -1 in `shape` is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def fits(self, tensor: Tensor) -> bool:
        shape = tensor.array.shape
        return len(shape) == len(self.shape) and all(d in (-1, n) for d, n in zip(self.shape, shape, strict=True))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor with its elements; BYTES are an object array of bytes."""

    name: str
    datatype: str
    array: Array

    def json(self, *, nested: bool = False, **changes: Any) -> dict[str, Any]:
        """As `$request_input`, its data flat or in the shape's own form, with some fields changed."""
        array = self.array
        if self.datatype == "BYTES":
            array = np.array([v.decode() for v in array.reshape(-1)], np.object_).reshape(array.shape)
        data = (array if nested else array.reshape(-1)).tolist()
        head = {"name": self.name, "shape": list(array.shape), "datatype": self.datatype}
        return {**head, "data": data, **changes}

    def raw(self) -> bytes:
        """Little-endian elements in row-major order; BYTES each behind its length."""
        if self.datatype == "BYTES":
            return b"".join(struct.pack("<I", len(v)) + v for v in self.array.reshape(-1))
        return np.ascontiguousarray(self.array, self.array.dtype.newbyteorder("<")).tobytes()

    def contents(self) -> dict[str, Any]:
        """As gRPC's InferTensorContents. Raises Skipped for FP16, which has none."""
        if self.datatype not in CONTENTS:
            raise Skipped(f"{self.name}: {self.datatype} has no typed contents")
        return {CONTENTS[self.datatype]: self.array.reshape(-1).tolist()}

    def rows(self, which: slice) -> Tensor:
        return replace(self, array=self.array[which])


def specs(doc: Any, name: str) -> list[Spec]:
    """`inputs` or `outputs` of a model's metadata. Raises Failed where they are not as the protocol has them."""
    found = []
    for tensor in of(doc, name, list):
        called, shape = of(tensor, "name", str), of(tensor, "shape", list)
        for d in shape:
            expect(type(d) is int and d >= -1, f"{called!r}: dimension {d!r:.40}, expected an integer ≥ -1")
        found.append(Spec(called, of(tensor, "datatype", str), tuple(shape)))
    return found


def make(spec: Spec) -> Tensor:
    """Small values, each another than its neighbours so that an order shows. Raises Skipped."""
    if spec.datatype not in DATATYPES:
        raise Skipped(f"no sample for {spec.name}: {spec.datatype} is not in the protocol's table")
    shape = [ANY if d < 0 else d for d in spec.shape]
    count = math.prod(shape)
    if count > MOST:
        raise Skipped(f"no sample for {spec.name}: {count} elements are too many to send about")
    if spec.datatype == "BYTES":
        array = np.array([b"text %d" % (i + 1) for i in range(count)], np.object_)
    elif spec.datatype == "BOOL":
        array = np.arange(count) % 3 == 0
    else:
        # At most 100: small enough for INT8, and exact in FP16.
        array = (np.arange(count) % 100 + 1).astype(DATATYPES[spec.datatype].dtype)
    return Tensor(spec.name, spec.datatype, array.reshape(shape))


def edges(tensor: Tensor) -> Tensor:
    """The same shape filled with the extremes of the datatype, again and again."""
    type_ = DATATYPES[tensor.datatype]
    values: list[Any]
    if tensor.datatype == "BYTES":
        values = [b"", "é \u65e5 \N{GRINNING FACE}".encode(), b'"quoted" \\ \n\t', b"x" * 1000]
    elif tensor.datatype == "BOOL":
        values = [True, False]
    elif type_.is_float:
        info = np.finfo(type_.dtype)
        values = [float(info.max), float(info.min), float(info.tiny), -0.0, 1 / 3]
    else:
        limits = np.iinfo(type_.dtype)
        values = [limits.max, limits.min, limits.max - 1, 0]
    count = tensor.array.size
    array = np.empty(count, type_.dtype)
    array[:] = (values * (count // len(values) + 1))[:count]
    return replace(tensor, array=array.reshape(tensor.array.shape))


def unusual(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, with a NaN and an infinity in the first that can hold them. Raises Skipped."""
    found = list(tensors)
    for place, tensor in enumerate(found):
        if tensor.datatype in ("FP32", "FP64") and tensor.array.size > 1:
            array = tensor.array.copy()
            array.flat[:2] = (math.nan, math.inf)
            found[place] = replace(tensor, array=array)
            return found
    raise Skipped("no input is FP32 or FP64")


def from_json(output: Any) -> Tensor:
    """A `$response_output` with its data in JSON. Raises Failed."""
    name, datatype, shape = _head(output)
    flat = _flat(of(output, "data", list))
    expect(len(flat) == math.prod(shape), f"{name!r} has {len(flat)} elements, its shape is {shape}")
    wanted = KINDS[DATATYPES[datatype].json]
    for value in flat:
        right = isinstance(value, wanted) and (datatype == "BOOL" or not isinstance(value, bool))
        # The only way to write a NaN or an infinity in JSON, of which the text says nothing.
        right = right or (value is None and DATATYPES[datatype].is_float)
        expect(right, f"{name!r} is {datatype} and has the element {value!r:.40}")
    values = [v.encode() for v in flat] if datatype == "BYTES" else [math.nan if v is None else v for v in flat]
    return Tensor(name, datatype, _array(name, datatype, values, shape))


def from_raw(output: Any, raw: bytes) -> Tensor:
    """A `$response_output`, or gRPC's output tensor as one, with its data in bytes. Raises Failed."""
    name, datatype, shape = _head(output)
    count = math.prod(shape)
    if datatype != "BYTES":
        size = count * DATATYPES[datatype].size
        expect(len(raw) == size, f"{name!r} has {len(raw)} bytes, {datatype} of shape {shape} has {size}")
        return Tensor(name, datatype, np.frombuffer(raw, DATATYPES[datatype].dtype.newbyteorder("<")).reshape(shape))
    values, at = [], 0
    while at + 4 <= len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        values.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    expect(at == len(raw), f"{name!r}: {len(raw)} bytes are no row of lengths and strings")
    expect(len(values) == count, f"{name!r} has {len(values)} elements, its shape is {shape}")
    return Tensor(name, datatype, _array(name, datatype, values, shape))


def from_contents(output: Any, contents: Any) -> Tensor:
    """gRPC's output tensor with typed contents. Raises Failed."""
    name, datatype, shape = _head(output)
    expect(datatype in CONTENTS, f"{name!r} is {datatype}, which has no typed contents")
    values = list(getattr(contents, CONTENTS[datatype]))
    expect(len(values) == math.prod(shape), f"{name!r} has {len(values)} elements, its shape is {shape}")
    return Tensor(name, datatype, _array(name, datatype, values, shape))


def differ(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """How the outputs differ from those expected; "" where they do not, within rounding."""
    if found.keys() != expected.keys():
        return f"outputs {sorted(found)}, expected {sorted(expected)}"
    for name, one in expected.items():
        other = found[name]
        if other.array.shape != one.array.shape or other.datatype != one.datatype:
            return (
                f"{name!r} is {other.datatype} {list(other.array.shape)}, "
                f"expected {one.datatype} {list(one.array.shape)}"
            )
        if one.datatype in TOLERANCE:
            tolerance = TOLERANCE[one.datatype]
            with np.errstate(invalid="ignore", over="ignore"):
                same = np.isclose(other.array, one.array, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            same = np.asarray(other.array == one.array)
        if not same.all():
            place = tuple(int(i) for i in np.argwhere(~same)[0])
            return f"{name}{list(place)} is {other.array[place]!r:.40}, expected {one.array[place]!r:.40}"
    return ""


def _head(output: Any) -> tuple[str, str, list[int]]:
    name, datatype, shape = of(output, "name", str), of(output, "datatype", str), of(output, "shape", list)
    expect(datatype in DATATYPES, f"{name!r} has the datatype {datatype!r}, which is not in the protocol's table")
    expect(all(type(d) is int and d >= 0 for d in shape), f"{name!r} has the shape {shape!r:.60}")
    return name, datatype, shape


def _flat(data: Sequence[Any]) -> list[Any]:
    found: list[Any] = list(data)
    while any(isinstance(v, list) for v in found):
        found = [v for part in found for v in (part if isinstance(part, list) else [part])]
    return found


def _array(name: str, datatype: str, values: list[Any], shape: Sequence[int]) -> Array:
    out = np.empty(len(values), DATATYPES[datatype].dtype)
    try:
        with np.errstate(over="ignore"):
            out[:] = values
    except (OverflowError, ValueError, TypeError):
        raise Failed(f"{name!r} is {datatype} and has elements that do not fit: {values!r:.60}") from None
    return out.reshape(shape)
