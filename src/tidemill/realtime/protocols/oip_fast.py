"""The quick way in for the commonest request of the Open Inference Protocol: one float tensor as flat JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import simdjson

from tidemill.model.signature import Input
from tidemill.realtime.options import RequestLimits
from tidemill.rows import PackedRows, Rows

__all__ = ["FastReader"]

_DATA = re.compile(rb'"data"\s*:\s*\[').search
_DOUBLE = np.dtype(np.float64)
# The byte of a float64 with its sign and the upper bits of its exponent, where it is below 2**113: FP32 holds it.
_MODEST = bytes(b for b in range(256) if b & 0x7F < 0x47)


class FastReader:
    """Reads one float tensor of fixed width, and perhaps an id; the numbers go from the text straight into a buffer.

    What it reads is what `Reader` reads; anything else it leaves to that one. Of a one-row body that is framed byte
    for byte like the one before, only the numbers are parsed.
    """

    def __init__(self, one: Input, limits: RequestLimits) -> None:
        # Types made at run time, one set a model; the type checker cannot follow them.
        name: Any = Literal[one.name]
        width: Any = Literal[one.shape[1]]
        datatype_: Any = Literal[one.datatype]
        fields = [("name", name), ("shape", tuple[int, width]), ("datatype", datatype_), ("data", tuple[()])]
        tensor: Any = msgspec.defstruct("Tensor", fields, forbid_unknown_fields=True, gc=False)
        inputs: Any = tuple[tensor]
        body = msgspec.defstruct(
            "Body", [("inputs", inputs), ("id", str | None, None)], forbid_unknown_fields=True, gc=False
        )
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(body).decode
        self._parser = simdjson.Parser()
        self._before = self._after = b""
        self._start, self._stop = 0, 0
        self._name = one.name
        self._width = one.shape[1]
        self._row_bytes = one.shape[1] * _DOUBLE.itemsize
        self._dtype = one.type.dtype
        self._narrow = one.type.size < _DOUBLE.itemsize
        self._max_rows = min(limits.max_rows, limits.max_elements // self._width)

    @classmethod
    def of(cls, inputs: Sequence[Input], limits: RequestLimits) -> FastReader | None:
        """A reader for a model with exactly one input, a two-dimensional tensor of FP32 or FP64 of fixed width."""
        one = inputs[0]
        if len(inputs) == 1 and one.datatype in ("FP32", "FP64") and len(one.shape) == 2 and one.shape[1] > 0:
            return cls(one, limits)
        return None

    def read(self, body: bytes) -> tuple[Rows, str | None] | None:
        """Rows and id, or None for a request that is not of this form (or not right)."""
        if self._start and body.startswith(self._before) and body.endswith(self._after):
            # What stood between was one array; another array there makes the same document but for its numbers.
            text = body[self._start : self._stop]
            data = self._numbers(text) if text.find(b"[", 1) < 0 else None  # the parser would flatten lists in it
            if data is None or len(data) != self._row_bytes:
                return None
            return PackedRows(self._name, data, self._dtype, self._width, 1, _DOUBLE), None
        found = _DATA(body)
        if found is None:
            return None
        start = found.end() - 1
        stop = body.find(b"]", start) + 1
        if not stop:
            return None
        # Without its numbers the document is small. It can only be right if they were the tensor's: no other array of
        # it may be empty, and the tensor's own must be now.
        try:
            doc = self._decode(body[: start + 1] + body[stop - 1 :])
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        n = doc.inputs[0].shape[0]
        if not 0 < n <= self._max_rows:
            return None
        data = self._numbers(body[start:stop])
        if data is None or len(data) != n * self._row_bytes:
            return None
        if n == 1 and doc.id is None:
            self._before, self._after = body[:start], body[stop:]
            self._start, self._stop = start, stop - len(body)
        return PackedRows(self._name, data, self._dtype, self._width, n, _DOUBLE), doc.id

    def _numbers(self, text: bytes) -> bytes | None:
        """The float64 of a flat JSON array of numbers, or None if it is something else, or may be too large a one."""
        try:
            found = bytes(self._parser.parse(text).as_buffer(of_type="d"))  # type: ignore[union-attr]
        except (ValueError, TypeError, AttributeError, RuntimeError, UnicodeDecodeError):
            # The parser lends its memory to what it found, which the error holds.
            self._parser = simdjson.Parser()
            return None
        if self._narrow and found[7::8].translate(None, _MODEST):
            return None
        return found
