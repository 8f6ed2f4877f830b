"""Rows to try a package on: chosen from the table, answered by the path itself, some kept as the package's samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tidemill.errors import PackageError
from tidemill.packaging.table import LikeTable
from tidemill.prediction.columns import output_arrays, output_schema
from tidemill.prediction.live import Live
from tidemill.rows import Array, Rows

__all__ = ["Samples", "choose_samples"]

_SEED = 7


@dataclass(frozen=True, slots=True)
class Samples:
    """`rows`: all good rows, for measuring. `kept` and `expected`: the table rows to keep with the path's answers."""

    rows: Rows
    kept: pa.RecordBatch
    expected: pa.RecordBatch
    notes: tuple[str, ...] = ()


def choose_samples(live: Live, table: LikeTable | None, most: int) -> Samples | None:
    """Run the table's rows through the path. Without a table, rows of numbers are made up where every input is
    float (to measure with, never kept); else None.

    Raises PackageError where the model fails on real rows, or the signature refuses them all.
    """
    if table is None:
        made = _made_up(live)
        if made is None:
            return None
        empty = pa.RecordBatch.from_pylist([])
        problems = live.predict(made.slice(0, 2)).problems
        if problems:
            return Samples(made.slice(0, 0), empty, empty, (f"made-up rows have no answer: {problems[0].message}",))
        return Samples(made, empty, empty)
    rows = live.intake.from_arrow(table.rows)
    result = live.predict(rows)
    failed = [p for p in result.problems if p.code == "model_failed"]
    if failed:
        raise PackageError(f"the model fails on a row of the table: {failed[0].message}")
    index = np.flatnonzero(result.answered)
    if not len(index):
        first = result.problems[0]
        raise PackageError(f"the signature refuses every row of the table: {first.message}")
    notes = []
    if len(index) < rows.n:
        first = result.problems[0]
        notes.append(f"{rows.n - len(index)} of {rows.n} rows tried are refused by the signature: {first.message}")
    names = [n for n in live.intake.table_columns if n in table.rows.schema.names]
    names += [i.name for i in live.intake.inputs if i.columns and i.name in table.rows.schema.names]
    inputs = table.rows.select(names)
    kept = index[_spread(inputs.take(pa.array(index)), most)]
    # Answered in a call of their own: where rows depend on each other, that is the call to compare with.
    answered = live.predict(rows.take(kept)).outputs
    outputs = live.package.manifest.outputs
    expected = pa.RecordBatch.from_arrays(output_arrays(outputs, answered), schema=output_schema(outputs))
    return Samples(rows.take(index), inputs.take(pa.array(kept)), expected, tuple(notes))


def _spread(rows: pa.RecordBatch, most: int) -> Array:
    """Indices of the rows to keep: up to a quarter of them with missing cells, then as they come."""
    missing = np.zeros(rows.num_rows, np.bool_)
    for column in rows.columns:
        nan = pa.types.is_floating(column.type)
        missing |= np.asarray(column.is_null(nan_is_null=nan).to_numpy(zero_copy_only=False))
    some = np.flatnonzero(missing)[: most // 4]
    rest = np.setdiff1d(np.arange(rows.num_rows), some)[: most - len(some)]
    return np.sort(np.concatenate([some, rest]))


def _made_up(live: Live) -> Rows | None:
    inputs = live.intake.inputs
    if not all(i.type.is_float for i in inputs):
        return None
    random = np.random.default_rng(_SEED)
    columns = {}
    for one in inputs:
        shape = (1000, *(8 if d < 0 else d for d in one.shape[1:]))
        if int(np.prod(shape)) > 50_000_000:
            return None
        columns[one.name] = random.standard_normal(shape).astype(one.type.dtype)
    return Rows(columns, 1000)
