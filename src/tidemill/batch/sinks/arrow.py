"""Arrow IPC parts, uncompressed so that readers can map them; run and package stand in the schema's metadata."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tidemill.batch.sinks.parquet import STAMP

__all__ = ["ArrowSink", "read_arrow_stamp"]


class ArrowSink:
    """The file format (Feather version 2). A chunk is a record batch; dictionaries are written as their values."""

    suffix = ".arrow"

    def check(self, schema: pa.Schema) -> str | None:
        del schema
        return None

    def open(self, path: Path, schema: pa.Schema, stamp: bytes, *, passing: bool = False) -> ArrowPart:
        del passing  # nothing is compressed anyhow
        return ArrowPart(path, schema.with_metadata({STAMP: stamp}))

    def count(self, path: Path) -> int:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))

    def join(self, path: Path, schema: pa.Schema, stamp: bytes) -> ArrowJoiner:
        return ArrowJoiner(self.open(path, schema, stamp))


class ArrowPart:
    """Holds nothing in memory."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = pa.schema([_plain(f) for f in schema], schema.metadata)
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._file.close()


class ArrowJoiner:
    """Copies record batches."""

    def __init__(self, writer: ArrowPart) -> None:
        self._writer = writer

    def add(self, part: Path) -> None:
        with pa.memory_map(str(part)) as file, pa.ipc.open_file(file) as reader:
            for i in range(reader.num_record_batches):
                self._writer.write(reader.get_batch(i))

    def close(self) -> None:
        self._writer.close()


def read_arrow_stamp(path: Path) -> bytes | None:
    """The stamp of an Arrow file, or None where it has none or is no Arrow file."""
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            stamp: bytes | None = (reader.schema.metadata or {}).get(STAMP)
            return stamp
    except (pa.ArrowException, OSError):
        return None


def _plain(field: pa.Field) -> pa.Field:
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
