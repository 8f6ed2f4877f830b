"""Rows out of a table that people have, and rows as a table that a batch run can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from tidemill.batch.columns import wanted_columns
from tidemill.batch.inputs import Asked, find_input
from tidemill.batch.options import ScoreOptions
from tidemill.batch.places import parse_place
from tidemill.batch.plan import build_plan, planned_job
from tidemill.batch.shard import read_piece
from tidemill.batch.targets import open_target
from tidemill.errors import InputError, SourceError
from tidemill.model.signature import Input, Output
from tidemill.prediction.columns import arrow_column
from tidemill.prediction.intake import Intake
from tidemill.prediction.live import Live
from tidemill.rows import Array, Rows

__all__ = ["read_outputs", "read_rows", "to_table"]

CHUNK_ROWS = 4096


def read_rows(place: str, live: Live, most: int) -> pa.RecordBatch:
    """The model's columns of the first `most` rows of a file, directory or glob, read as a batch run reads them.

    Raises SourceError for what cannot be read, InputError for a table without rows.
    """
    batches: list[pa.RecordBatch] = []
    rows = 0
    for batch in _batches(place, live):
        batches.append(batch)
        rows += batch.num_rows
        if rows >= most:
            break
    if not rows:
        raise InputError(f"{place}: has no rows")
    return pa.Table.from_batches(batches).slice(0, most).combine_chunks().to_batches()[0]


def _batches(place: str, live: Live) -> Iterator[pa.RecordBatch]:
    source, inputs = parse_place(place), live.package.manifest.inputs
    found = find_input(source, Asked(None, None, lambda present: wanted_columns(inputs, (), present)))
    if found is None:
        raise SourceError(f"{source.shown}: is not read in place; give files, or a table of files")
    # A plan names an output; this one is read from and never run.
    nowhere = open_target(parse_place("verify.parquet"), "create", ()).describe("verify")
    plan = build_plan("verify", planned_job(source.shown, nowhere, ScoreOptions(chunk_rows=CHUNK_ROWS)), live, found)
    for shard in plan.shards:
        for piece in shard.pieces:
            for _, batch in read_piece(plan, piece):
                yield batch


def read_outputs(outputs: Sequence[Output], table: pa.RecordBatch | pa.Table) -> Mapping[str, Array]:
    """A table of outputs as arrays (n, …). They are read as inputs are: outputs are columns like any other."""
    like = [Input(name=o.name, datatype=o.datatype, shape=o.shape, binary=o.binary) for o in outputs]
    whole = pa.table(table).combine_chunks()
    batches = whole.to_batches() or [pa.RecordBatch.from_pylist([], schema=whole.schema)]
    return Intake(like).from_arrow(batches[0]).columns


def to_table(inputs: Sequence[Input], rows: Rows) -> pa.Table:
    """The rows as people keep them: a column for each scalar, lists for tensors, null for missing integers and text."""
    columns: dict[str, pa.Array] = {}
    for one in inputs:
        array, mask = rows[one.name], rows.valid.get(one.name)
        for j, column in enumerate(one.columns):
            scalar = Input(name=column.name, datatype=one.datatype, binary=one.binary)
            columns[column.name] = arrow_column(scalar, array[:, j], None if mask is None else mask[:, j])
        if not one.columns:
            columns[one.name] = arrow_column(one, array, mask)
    return pa.table(columns)
