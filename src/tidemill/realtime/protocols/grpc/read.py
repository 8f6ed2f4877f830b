"""From a ModelInferRequest to rows and what its answer shall be like, and frames: requests equal but for their numbers.

Names, shapes, datatypes and wishes are checked by the reader of the REST form, so that both say the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidemill.datatypes import DataType
from tidemill.errors import InputError
from tidemill.prediction.cells import array_from_list
from tidemill.prediction.live import Live
from tidemill.realtime.options import RequestLimits
from tidemill.realtime.protocols.grpc.decode import CONTENTS, Contents, InferRequest, Tensor
from tidemill.realtime.protocols.oip_request import Asked, Reader
from tidemill.rows import Array, PackedRows, Rows
from tidemill.tensors import decode_tensor

__all__ = ["Frame", "InferReader"]

# Where the values of a datatype stand; FP16 has no place but raw_input_contents.
FIELDS = {"BOOL": 1, "INT64": 3, "UINT64": 5, "FP32": 6, "FP64": 7, "BYTES": 8}
FIELDS |= dict.fromkeys(("INT8", "INT16", "INT32"), 2) | dict.fromkeys(("UINT8", "UINT16", "UINT32"), 4)
SIZED_BY = "the length of raw_input_contents"
# Rows of up to so many bytes stay bytes until they are merged; more are better looked at where they lie.
PACKED_BYTES = 1 << 16

Head = tuple[str, list[int], DataType, bool]


@dataclass(slots=True)
class Frame:
    """All of a request but its raw tensors. A message of `size` bytes that begins with `head`, and has each of
    `marks` in its place, is the same request with other numbers in it.
    """

    size: int
    head: bytes
    marks: tuple[tuple[int, bytes], ...]
    asked: Asked
    tensors: tuple[tuple[Head, int, int], ...]
    packed: bool
    direct: bool
    """The tensors are the signature's inputs as they are."""

    def fits(self, data: bytes) -> bool:
        """Whether `data`, which is `size` bytes long, is this request."""
        return data.startswith(self.head) and all(data.startswith(mark, at) for at, mark in self.marks)


class InferReader:
    """Reads the inference requests for one model."""

    def __init__(self, live: Live, limits: RequestLimits) -> None:
        self._reader = Reader(live.intake, [o.name for o in live.package.manifest.outputs], limits)
        inputs = live.package.manifest.inputs
        first = inputs[0]
        alone = len(inputs) == 1 and first.type.is_float and len(first.shape) == 2 and first.shape[1] > 0
        self._packable = first if alone else None

    def read(self, request: InferRequest) -> tuple[Rows, Asked]:
        """The rows and wishes of a request. Raises InputError where it cannot be understood, TooLarge over a limit."""
        asked = self._asked(request)
        heads = self._heads(request)
        if request.raw:
            return self._from_raw(heads, request.raw), asked
        tensors = {
            head[0]: _typed(tensor, *head[1:]) for head, tensor in zip(heads, request.inputs, strict=True)
        }  # fmt: skip
        return self._reader.intake.from_arrays(tensors), asked

    def frame(self, request: InferRequest, data: bytes) -> Frame | None:
        """What a request that was read from `data` has in common with others that differ only in their numbers; None
        where it has an id, or a tensor whose size may vary.
        """
        raw = request.raw
        if not raw or request.id or any(held is not data for held, _, _ in raw):
            return None
        heads = self._heads(request)
        if any(type_.size == 0 for _, _, type_, _ in heads):
            return None
        stops = [start + size for _, start, size in raw]
        starts = [start for _, start, _ in raw[1:]] + [len(data)]
        marks = tuple((stop, data[stop:start]) for stop, start in zip(stops, starts, strict=True) if start > stop)
        tensors = tuple((head, start, size) for head, (_, start, size) in zip(heads, raw, strict=True))
        given = {name: decode_tensor(data, at, size, t, shape, name) for (name, shape, t, _), at, size in tensors}
        rows = self._reader.intake.from_arrays(given)
        direct = not rows.valid and all(given.get(name) is array for name, array in rows.columns.items())
        packed = direct and self._is_packable(heads, raw)
        head = data[: raw[0][1]]
        return Frame(len(data), head, marks, self._asked(request), tensors, packed, direct)

    def framed(self, frame: Frame, data: bytes) -> Rows:
        """The rows of another request of a frame that fits."""
        if frame.packed:
            return self.packed(frame, data)
        arrays = {
            name: decode_tensor(data, start, size, type_, shape, name, sized_by=SIZED_BY)
            for (name, shape, type_, _), start, size in frame.tensors
        }
        if frame.direct:
            return Rows({one.name: arrays[one.name] for one in self._reader.intake.inputs}, frame.tensors[0][0][1][0])
        return self._reader.intake.from_arrays(arrays)

    def packed(self, frame: Frame, data: bytes) -> Rows:
        """The rows of another request of a frame that fits and is `packed`."""
        (name, shape, type_, _), start, size = frame.tensors[0]
        return PackedRows(name, data[start : start + size], type_.dtype, shape[1], shape[0])

    def _asked(self, request: InferRequest) -> Asked:
        outputs = [{"name": name, "parameters": parameters} for name, parameters in request.outputs]
        doc: dict[str, Any] = {"parameters": request.parameters, "outputs": outputs}
        for name, parameters in request.outputs:
            _no_shared_memory(f"output {name!r}", parameters)
        if request.id:
            doc["id"] = request.id
        return self._reader.asked(doc)

    def _heads(self, request: InferRequest) -> list[Head]:
        heads: dict[str, Head] = {}
        for place, tensor in enumerate(request.inputs):
            doc = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
            head = self._reader.head(doc, place)
            if tensor.name in heads:
                raise InputError(f"input {tensor.name!r} is sent twice", field=tensor.name)
            heads[tensor.name] = head
            _no_shared_memory(f"input {tensor.name!r}", tensor.parameters)
            if request.raw and tensor.contents:
                text = f"{tensor.name}: send either contents or raw_input_contents, not both"
                raise InputError(text, field=tensor.name)
        if request.raw and len(request.raw) != len(heads):
            raise InputError(
                f"got {len(request.raw)} raw_input_contents for {len(heads)} inputs: each has one, in the same order"
            )
        return list(heads.values())

    def _from_raw(self, heads: list[Head], raw: Sequence[tuple[bytes, int, int]]) -> Rows:
        if self._is_packable(heads, raw):
            name, shape, type_, _ = heads[0]
            data, start, size = raw[0]
            return PackedRows(name, data[start : start + size], type_.dtype, shape[1], shape[0])
        tensors = {
            name: decode_tensor(*held, type_, shape, name, binary=binary, sized_by=SIZED_BY)
            for (name, shape, type_, binary), held in zip(heads, raw, strict=True)
        }
        return self._reader.intake.from_arrays(tensors)

    def _is_packable(self, heads: list[Head], raw: Sequence[tuple[bytes, int, int]]) -> bool:
        """Whether the rows may stay bytes: those of the model's only input, as it is declared."""
        one = self._packable
        if one is None or len(heads) != 1:
            return False
        name, shape, type_, _ = heads[0]
        size = raw[0][2]
        return (
            name == one.name
            and shape[1:] == [one.shape[1]]
            and 0 < size <= PACKED_BYTES
            and size == shape[0] * shape[1] * type_.size
        )


def _typed(tensor: Tensor, shape: list[int], type_: DataType, binary: bool) -> Array:
    """An input from its `contents`: an array of `shape`; BYTES as str, or bytes where they are binary."""
    name = tensor.name
    number = FIELDS.get(type_.name)
    if number is None:
        raise InputError(f"{name}: {type_.name} has no typed contents: send raw_input_contents", field=name)
    for other in tensor.contents:
        if other != number:
            raise InputError(
                f"{name}: got {CONTENTS[other][0]}, {type_.name} is sent as {CONTENTS[number][0]}", field=name
            )
    values: Contents = tensor.contents.get(number, [])
    expected = math.prod(shape)
    if len(values) != expected:
        raise InputError(f"{name}: data has {len(values)} elements, shape {shape} needs {expected}", field=name)
    if number == 8:
        out = np.empty(expected, np.object_)
        out[:] = values if binary else [_text(v, i, name) for i, v in enumerate(values)]
        return out.reshape(shape)
    array = np.asarray(values, CONTENTS[number][1])
    if array.dtype != type_.dtype:
        narrow = array.astype(type_.dtype)
        if not np.array_equal(narrow, array):
            array_from_list(array.tolist(), type_, name, width=expected // shape[0])
        array = narrow
    return array.reshape(shape)


def _text(value: Any, place: int, name: str) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{name}: element {place} is not UTF-8 text", field=name) from None


def _no_shared_memory(where: str, parameters: dict[str, Any]) -> None:
    if "shared_memory_region" in parameters:
        raise InputError(f"{where}: shared memory is not offered; send tensors in the message")
