"""CSV parts without a header, joined under one. A vector takes one column an element, NAME_0 and on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from tidemill.batch.sinks.lines import LineJoiner

__all__ = ["CsvSink"]

_BLOCK = 4 << 20
# What other tools keep text in, and PyArrow's writer does not know.
_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


class CsvSink:
    """RFC 4180 with LF line ends. Null is an empty cell, empty text is `""`, NaN is `nan`."""

    suffix = ".csv"

    def check(self, schema: pa.Schema) -> str | None:
        for field in schema:
            inner = _scalar(field.type)
            if inner is None:
                return (
                    f"column {field.name!r} of {field.type} has no fixed number of cells; write Parquet or JSON lines"
                )
        flat = _flat_schema(schema)
        strange = next((f for f in flat if not _writable(f)), None)
        if strange is not None:
            return f"column {strange.name!r} of {strange.type} has no form in CSV; leave it out, or cast it"
        names = flat.names
        twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
        return None if twice is None else f"two columns would be called {twice!r}; rename one, or write Parquet"

    def open(self, path: Path, schema: pa.Schema, stamp: bytes, *, passing: bool = False) -> CsvPart:
        del stamp, passing  # CSV has no place for a stamp, and one way to be written
        return CsvPart(path, schema)

    def count(self, path: Path) -> int:
        """Line ends outside quotes."""
        rows, inside = 0, 0
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                if not inside and b'"' not in block:
                    rows += block.count(b"\n")
                    continue
                data = np.frombuffer(block, np.uint8)
                quotes = np.cumsum(data == ord('"')) + inside
                rows += int(np.count_nonzero((data == ord("\n")) & (quotes % 2 == 0)))
                inside = int(quotes[-1]) % 2
        return rows

    def join(self, path: Path, schema: pa.Schema, stamp: bytes) -> LineJoiner:
        del stamp
        header = ",".join('"' + n.replace('"', '""') + '"' for n in _flat_schema(schema).names) + "\n"
        return LineJoiner(path, header.encode())


class CsvPart:
    """A part of plain lines."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = _flat_schema(schema)
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa_csv.CSVWriter(
            self._file, self._schema, write_options=pa_csv.WriteOptions(include_header=False, batch_size=8192)
        )

    def write(self, batch: pa.RecordBatch) -> None:
        columns: list[pa.Array] = []
        for column in batch.columns:
            columns += _flat(column)
        columns = [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._file.close()


def _scalar(type_: pa.DataType) -> pa.DataType | None:
    """The type of one cell, or None where cells have no fixed number."""
    while pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return None if pa.types.is_nested(type_) else _VIEWS.get(type_, type_)


def _writable(field: pa.Field) -> bool:
    try:
        pa_csv.CSVWriter(pa.BufferOutputStream(), pa.schema([field])).close()
    except pa.ArrowException:
        return False
    return True


def _width(type_: pa.DataType) -> tuple[int, ...]:
    dims: list[int] = []
    while pa.types.is_fixed_size_list(type_):
        dims.append(type_.list_size)
        type_ = type_.value_type
    return tuple(dims)


def _flat_schema(schema: pa.Schema) -> pa.Schema:
    fields = []
    for field in schema:
        dims, type_ = _width(field.type), _scalar(field.type)
        names = [field.name] if not dims else [f"{field.name}_{i}" for i in range(math.prod(dims))]
        fields += [pa.field(n, type_) for n in names]
    return pa.schema(fields)


def _flat(column: pa.Array) -> list[pa.Array]:
    """One array a cell of the (nested) fixed-size lists."""
    columns = [column]
    while pa.types.is_fixed_size_list(columns[0].type):
        size = columns[0].type.list_size
        columns = [pa.compute.list_element(c, i) for c in columns for i in range(size)]
    if pa.types.is_dictionary(columns[0].type):
        columns = [c.dictionary_decode() for c in columns]
    return columns
