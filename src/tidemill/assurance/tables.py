"""Rows out of a table that people have, and rows as a table that a batch run can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from tidemill.batch.places import find_files
from tidemill.batch.sources import Piece, source
from tidemill.errors import InputError
from tidemill.model.signature import Input
from tidemill.rows import Rows

__all__ = ["read_rows", "to_table"]

CHUNK_ROWS = 4096


def read_rows(place: str, inputs: Sequence[Input], most: int) -> pa.RecordBatch:
    """The model's columns of the first rows of a file, directory or glob, read as a batch run reads them.

    Raises SourceError for what cannot be read, InputError for a table without rows.
    """
    batches: list[pa.RecordBatch] = []
    rows = 0
    for batch in _batches(place, inputs):
        batches.append(batch)
        rows += batch.num_rows
        if rows >= most:
            break
    if not rows:
        raise InputError(f"{place}: has no rows")
    return pa.Table.from_batches(batches).slice(0, most).combine_chunks().to_batches()[0]


def _batches(place: str, inputs: Sequence[Input]) -> Iterator[pa.RecordBatch]:
    root, format_, files = find_files(place)
    reader = source(format_)
    types = {i.name: _type(i) for i in inputs} | {c.name: i.type.arrow() for i in inputs for c in i.columns}
    for number, file in enumerate(files):
        path = root / file.name
        found = reader.examine(path, file.name, types)
        schema = pa.schema([field for field in found.schema if field.name in types])
        for unit in found.units:
            piece = Piece(file=number, start=unit.start, stop=unit.stop, first_row=unit.first_row, rows=unit.rows)
            yield from reader.read(path, file.name, piece, schema, CHUNK_ROWS)


def to_table(inputs: Sequence[Input], rows: Rows) -> pa.Table:
    """The rows as people keep them: a column for each scalar, lists for tensors, null for missing integers and text."""
    columns: dict[str, pa.Array] = {}
    for one in inputs:
        array, mask = rows[one.name], rows.valid.get(one.name)
        type_ = one.type.arrow(one.binary)
        for j, column in enumerate(one.columns):
            absent = None if mask is None else ~mask[:, j]
            columns[column.name] = pa.array(np.ascontiguousarray(array[:, j]), type_, mask=absent)
        if not one.columns:
            flat = pa.array(array.reshape(-1), type_, mask=None if mask is None else ~mask.reshape(-1))
            for size in reversed(array.shape[1:]):
                flat = pa.FixedSizeListArray.from_arrays(flat, size)
            columns[one.name] = flat
    return pa.table(columns)


def _type(one: Input) -> pa.DataType:
    type_ = one.type.arrow(one.binary)
    for _ in one.shape[1:]:
        type_ = pa.list_(type_)
    return type_
