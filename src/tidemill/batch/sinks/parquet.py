"""Parquet parts: chunks are gathered into row groups of a useful size; run and package stand in the footer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.batch.paging import paged

__all__ = ["STAMP", "ParquetSink", "read_part", "read_stamp"]

STAMP = b"tidemill"
_GROUP_ROWS = 131_072
_GROUP_BYTES = 32 << 20


class ParquetSink:
    """Snappy pages; dictionaries for text only, since scores hardly repeat."""

    suffix = ".parquet"

    def check(self, schema: pa.Schema) -> str | None:
        if _holds(schema):
            return None
        field = next(f for f in schema if not _holds(pa.schema([f])))
        return f"column {field.name!r} of {field.type} has no form in Parquet; leave it out, or cast it"

    def open(self, path: Path, schema: pa.Schema, stamp: bytes, *, passing: bool = False) -> ParquetPart:
        return ParquetPart(path, schema.with_metadata({STAMP: stamp}), passing)

    def count(self, path: Path) -> int:
        rows: int = pq.read_metadata(path).num_rows
        return rows

    def join(self, path: Path, schema: pa.Schema, stamp: bytes) -> ParquetJoiner:
        return ParquetJoiner(self.open(path, schema, stamp))


class ParquetPart:
    """Holds at most one row group in memory."""

    def __init__(self, path: Path, schema: pa.Schema, passing: bool) -> None:
        self._schema = schema
        texts = [f.name for f in schema if _repeats(f.type)]
        self._writer = pq.ParquetWriter(
            path,
            schema,
            use_dictionary=texts,
            compression="none" if passing else "snappy",
            write_statistics=not passing,
            write_page_checksum=not passing,
        )
        self._held: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [_without_null_values(c) for c in batch.columns]
        self._held.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self.flush()

    @property
    def held(self) -> int:
        """Bytes in memory that wait for their row group to fill."""
        return self._bytes

    def close(self) -> None:
        try:
            if self._held:
                self.flush()
        finally:
            self._writer.close()

    def flush(self) -> None:
        """Write what is held as a row group."""
        table = pa.Table.from_batches(self._held, self._schema)
        self._held, self._rows, self._bytes = [], 0, 0
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))


class ParquetJoiner:
    """Reads parts chunk by chunk and writes them again."""

    def __init__(self, writer: ParquetPart) -> None:
        self._writer = writer

    def add(self, part: Path) -> None:
        for batch in read_part(part, 32_768):
            self._writer.write(batch)

    def close(self) -> None:
        self._writer.close()


def read_part(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of a part, in batches of at most `rows` and of bounded bytes. Raises OSError and ArrowException."""

    def open_(alike: list[str]) -> pq.ParquetFile:
        return pq.ParquetFile(path, read_dictionary=alike, pre_buffer=False, buffer_size=1 << 18)

    return paged(open_, None, None, rows)


def read_stamp(path: Path) -> bytes | None:
    """The stamp of a Parquet file, or None where it has none or is no Parquet file."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError):
        return None
    stamp: bytes | None = metadata.get(STAMP)
    return stamp


def _holds(schema: pa.Schema) -> bool:
    """Whether Parquet has a form for every column."""
    try:
        pq.ParquetWriter(pa.BufferOutputStream(), schema).close()
    except pa.ArrowException:
        return False
    return True


def _without_null_values(column: pa.Array) -> pa.Array:
    """A dictionary may have a null among its values, which PyArrow does not write: the cells are null themselves."""
    if not pa.types.is_dictionary(column.type) or not column.dictionary.null_count:
        return column
    return column.dictionary_decode().dictionary_encode().cast(column.type)


def _repeats(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_dictionary(type_)
        or pa.types.is_binary(type_)
    )
