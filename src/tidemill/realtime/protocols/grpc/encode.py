"""ModelInferResponse: from outputs to bytes, what never changes in it rendered beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

import orjson

from tidemill.errors import Problem
from tidemill.model.package import Package
from tidemill.prediction.result import Result
from tidemill.realtime.protocols.grpc.messages import message
from tidemill.realtime.protocols.grpc.varints import varint
from tidemill.realtime.protocols.oip_response import row_errors
from tidemill.rows import Array
from tidemill.tensors import encode_tensor

__all__ = ["FRAME_BYTES", "Writer", "framed", "parameters"]

# What stands before each message on the wire: a flag and the length.
FRAME_BYTES = 5
# Descriptions of outputs that are remembered, by name and shape.
REMEMBERED = 256


def framed(body: bytes) -> bytes:
    """An uncompressed message as it stands on the wire."""
    return b"\0%b%b" % (len(body).to_bytes(4, "big"), body)


def parameters(number: int, values: Mapping[str, bool | int | str]) -> bytes:
    """A map field of InferParameter, by its field number."""
    parts = []
    for key, value in values.items():
        if isinstance(value, bool):
            inner = b"\x08" + varint(value)
        elif isinstance(value, int):
            inner = b"\x10" + varint(value)
        else:
            inner = field(3, value.encode())
        parts.append(field(number, field(1, key.encode()) + field(2, inner)))
    return b"".join(parts)


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return b"%b%b%b" % (varint(number << 3 | 2), varint(len(value)), value)


class Writer:
    """Writes the answers of one model version. Tensors go into `raw_output_contents`."""

    def __init__(self, package: Package) -> None:
        self._outputs = {o.name: o for o in package.manifest.outputs}
        self._names = list(self._outputs)
        self._open = field(1, package.name.encode()) + field(2, package.version.encode())
        self._known: dict[tuple[str, tuple[int, ...]], bytes] = {}
        # An answer to one row, framed, with room for the bytes of each output; not where a size varies.
        self._one_row: list[bytes] | None = None
        sizes = [math.prod(o.shape[1:]) * o.type.size for o in self._outputs.values()]
        fixed = all(o.datatype != "BYTES" and all(d > 0 for d in o.shape[1:]) for o in self._outputs.values())
        if fixed:
            heads = [b"\x32" + varint(size) for size in sizes]
            heads[0] = self._open + self._described([(1, *o.shape[1:]) for o in self._outputs.values()]) + heads[0]
            body = sum(map(len, heads)) + sum(sizes)
            heads[0] = b"\0" + body.to_bytes(4, "big") + heads[0]
            self._one_row = heads

    def plain(self, result: Result, start: int, stop: int) -> bytes:
        """All outputs of rows start to stop, without an id, as a framed message."""
        if stop - start == 1 and self._one_row is not None:
            bodies: list[bytes] | None = result.memo.get(self)
            if bodies is None:
                bodies = result.memo[self] = self._one_row_each(result, self._one_row)
            return bodies[start]
        return framed(self.write(result, start, stop, self._names, None))

    def write(
        self,
        result: Result,
        start: int,
        stop: int,
        outputs: Sequence[str],
        id_: str | None,
        problems: Sequence[Problem] | None = None,
        more: bytes = b"",
    ) -> bytes:
        """The message, unframed. `problems` (None: those were not asked for) name rows, counted from `start`, whose
        cells are fillers; they are told in the answer's parameters. `more` are fields that are ready.
        """
        parts = [self._open, more]
        if id_ is not None:
            parts.append(field(3, id_.encode()))
        if problems is not None:
            told = row_errors(problems)
            errors = orjson.dumps(told["row_errors"]).decode()
            parts.append(parameters(4, {"bad_rows": len({p.row for p in problems}), "row_errors": errors}))
        columns = result.outputs.columns
        parts.append(self._described([(stop - start, *columns[name].shape[1:]) for name in outputs], outputs))
        for name in outputs:
            raw = _raw(result, name, start, stop)
            parts += (b"\x32", varint(len(raw)), raw)
        return b"".join(parts)

    def _one_row_each(self, result: Result, pieces: list[bytes]) -> list[bytes]:
        """The answers to all rows of a merged call, as if each had been asked for alone."""
        columns: list[Iterable[bytes]] = []
        for piece, name in zip(pieces, self._names, strict=True):
            array = result.outputs.columns[name]
            columns += (repeat(piece), _rows_of(encode_tensor(array), len(array)))
        return list(map(b"".join, zip(*columns, strict=False)))

    def _described(self, shapes: Sequence[tuple[int, ...]], names: Sequence[str] | None = None) -> bytes:
        """The `outputs` of an answer: name, datatype and shape of each."""
        known = self._known
        parts = []
        for key in zip(names or self._names, shapes, strict=True):
            found = known.get(key)
            if found is None:
                if len(known) >= REMEMBERED:
                    known.clear()
                name, shape = key
                tensor = message("inference.ModelInferResponse.InferOutputTensor")
                datatype = self._outputs[name].datatype
                found = field(5, tensor(name=name, datatype=datatype, shape=shape).SerializeToString())
                known[key] = found
            parts.append(found)
        return b"".join(parts)


def _raw(result: Result, name: str, start: int, stop: int) -> bytes:
    """The bytes of rows start to stop of an output; those of numbers are made once for a merged call."""
    array: Array = result.outputs.columns[name]
    if array.dtype.kind == "O":
        return encode_tensor(array[start:stop])
    if stop - start == len(array):
        return encode_tensor(array)
    key = (name, "raw")
    whole: bytes | None = result.memo.get(key)
    if whole is None:
        whole = result.memo[key] = encode_tensor(array)
    width = len(whole) // len(array)
    return whole[start * width : stop * width]


def _rows_of(whole: bytes, n: int) -> list[bytes]:
    width = len(whole) // n
    return [whole[i : i + width] for i in range(0, len(whole), width)]
