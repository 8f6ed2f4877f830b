"""Parquet: units are row groups; only the columns asked for are read, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.batch.blobs import Blob
from tidemill.batch.paging import bounded, paged
from tidemill.batch.sources.base import Examined, Piece, Unit, conform, unique, unreadable
from tidemill.errors import SourceError, first_line

__all__ = ["ParquetSource"]


class ParquetSource:
    """Types come from the file; the model's own are cast to on the way into it."""

    def examine(self, file: Blob, types: Mapping[str, pa.DataType]) -> Examined:
        del types  # the file carries its own
        with _open(file, []) as parquet:
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
        groups = range(piece.start, piece.stop)
        batches = paged(partial(_open, file), groups, schema.names, chunk_rows)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise unreadable(file.name, row, error) from None
            if batch is None:
                return
            for part in bounded(conform(batch, schema, file.name, row), chunk_rows):
                yield part
                row += part.num_rows


def _open(file: Blob, alike: list[str]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(
            file.path or file.open(),
            read_dictionary=alike,
            pre_buffer=False,
            buffer_size=1 << 18,
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file.name}: not a readable Parquet file: {first_line(error)}") from None
