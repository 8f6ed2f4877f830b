"""Parquet: units are row groups; only the columns asked for are read, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.batch.blobs import Blob
from tidemill.batch.sources.base import CHUNK_BYTES, Examined, Piece, Unit, bounded, conform, unique, unreadable
from tidemill.errors import SourceError

__all__ = ["ParquetSource"]


class ParquetSource:
    """Types come from the file; the model's own are cast to on the way into it."""

    def examine(self, file: Blob, types: Mapping[str, pa.DataType]) -> Examined:
        del types  # the file carries its own
        with _open(file) as parquet:
            meta = parquet.metadata
            units: list[Unit] = []
            row = 0
            for i in range(meta.num_row_groups):
                group = meta.row_group(i)
                units.append(Unit(i, i + 1, row, group.num_rows, group.total_byte_size))
                row += group.num_rows
            schema = parquet.schema_arrow
        unique(schema.names, file.name)
        return Examined(schema.remove_metadata(), units or [Unit(0, 0, 0, 0, 0)])

    def read(self, file: Blob, piece: Piece, schema: pa.Schema, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        row = piece.first_row
        with _open(file) as parquet:
            groups = list(range(piece.start, piece.stop))
            rows = _chunk_rows(parquet, groups, set(schema.names), chunk_rows)
            # One thread a reader: parallelism is by shards. Pages come through a small buffer, so that a row group
            # of any size is never held whole.
            batches = parquet.iter_batches(rows, row_groups=groups, columns=schema.names, use_threads=False)
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as error:
                    raise unreadable(file.name, row, error) from None
                if batch is None:
                    return
                for part in bounded(conform(batch, schema, file.name, row), rows):
                    yield part
                    row += part.num_rows


def _open(file: Blob) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(
            file.path or file.open(), pre_buffer=False, buffer_size=1 << 18, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file.name}: not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _chunk_rows(file: pq.ParquetFile, groups: list[int], columns: set[str], chunk_rows: int) -> int:
    """Rows of at most CHUNK_BYTES, judged by the uncompressed size of the columns that are read."""
    most = 0
    for i in groups:
        group = file.metadata.row_group(i)
        chunks = (group.column(j) for j in range(group.num_columns))
        total = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in columns)
        most = max(most, total // max(1, group.num_rows))
    return max(1, min(chunk_rows, CHUNK_BYTES // most)) if most else chunk_rows
