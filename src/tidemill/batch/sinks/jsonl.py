"""JSON lines parts: one object a row. Vectors are arrays; NaN and infinities, which JSON lacks, are null."""

from __future__ import annotations

import base64
import datetime
import decimal
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.batch.sinks.lines import LineJoiner

__all__ = ["JsonlSink"]

_SLICE = 4096


class JsonlSink:
    """UTF-8, LF. Decimals are text, bytes are base64, times are RFC 3339."""

    suffix = ".jsonl"

    def check(self, schema: pa.Schema) -> str | None:
        del schema
        return None

    def open(self, path: Path, schema: pa.Schema, stamp: bytes, *, passing: bool = False) -> JsonlPart:
        del schema, stamp, passing  # a line tells its own names; JSON lines have no place for a stamp
        return JsonlPart(path)

    def count(self, path: Path) -> int:
        rows = 0
        with open(path, "rb") as file:
            while block := file.read(4 << 20):
                rows += block.count(b"\n")
        return rows

    def join(self, path: Path, schema: pa.Schema, stamp: bytes) -> LineJoiner:
        del schema, stamp
        return LineJoiner(path)


class JsonlPart:
    """A part of plain lines."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()

    def write(self, batch: pa.RecordBatch) -> None:
        batch = pa.RecordBatch.from_arrays([_whole(c) for c in batch.columns], batch.schema.names)
        for start in range(0, batch.num_rows, _SLICE):
            for row in batch.slice(start, _SLICE).to_pylist():
                self._file.write(orjson.dumps(row, _plain, orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        self._file.close()


def _whole(column: pa.Array) -> pa.Array:
    """A column whose values Python has types for: those of nanoseconds become text."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
    return column.cast(pa.string()) if column.type == pa.time64("ns") else column


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.datetime):  # a subclass that knows nanoseconds, inside a list or struct
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
