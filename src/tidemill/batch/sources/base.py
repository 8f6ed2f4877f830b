"""The one interface of file sources: look at a file without reading its rows, then read a range of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from tidemill.batch.blobs import Blob
from tidemill.batch.paging import CHUNK_BYTES, bounded
from tidemill.config import Config
from tidemill.errors import SourceError, first_line

__all__ = ["CHUNK_BYTES", "Examined", "Piece", "Source", "Unit", "bounded", "conform", "unique", "unreadable"]


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest range of a file that can be read by itself, in the source's own terms (row groups, bytes).

    `first_row` counts from 0 in the file; `rows` is None where it takes reading to know.
    """

    start: int
    stop: int
    first_row: int
    rows: int | None
    nbytes: int


@dataclass(frozen=True, slots=True)
class Examined:
    """A file as seen without reading its rows: the schema of its columns, and its units in order."""

    schema: pa.Schema
    units: list[Unit]


class Piece(Config, frozen=True, kw_only=True):
    """Neighbouring units of one file (`file` is its index in the plan), read in one go."""

    file: int
    start: int
    stop: int
    first_row: int
    rows: int | None


class Source(Protocol):
    """Reads one format of files. Holds no state, so that any process can read any piece of a plan."""

    def examine(self, file: Blob, types: Mapping[str, pa.DataType]) -> Examined:
        """Look at a file. `types` are what the model wants of the columns it names, for formats that carry no types.

        Raises SourceError, which names the file, where it cannot be understood.
        """
        ...

    def read(self, file: Blob, piece: Piece, schema: pa.Schema, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a piece in order, as batches of `schema` and at most `chunk_rows` rows, in bounded memory.

        Raises SourceError naming file, column and row (from 0 in the file) where known.
        """
        ...


def unreadable(name: str, row: int, error: Exception) -> SourceError:
    """The error of a file that is broken after `row` good rows."""
    return SourceError(f"{name}: cannot be read from row {row} on: {first_line(error)}")


def conform(batch: pa.RecordBatch, schema: pa.Schema, name: str, row: int) -> pa.RecordBatch:
    """The batch in the plan's columns, order and types: files of one input may differ in width of a type."""
    columns = []
    for field in schema:
        column = batch.column(field.name)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except pa.ArrowException as error:
                raise SourceError(
                    f"{name}: column {field.name!r} of {column.type} cannot become {field.type}, its type in the "
                    f"other files (rows from {row}): {error}"
                ) from None
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def unique(names: Sequence[str], where: str) -> None:
    """Raises SourceError where two columns of a file, or of a query, have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SourceError(f"{where}: two columns are called {name!r}; rename one")
        seen.add(name)
