"""The user's rows: some to calibrate on, the others to judge by, with the truth of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.batch.calls import CALL_ROWS
from tidemill.errors import ConfigError, InputError, listing
from tidemill.packaging.table import LikeTable, read_like, table_batches
from tidemill.prediction.live import Live
from tidemill.rows import Array, Rows

__all__ = ["Evaluation", "answers", "read_evaluation"]

_MOST = 200_000
_CALIBRATION = 1024
_LEAST = 50
_SEED = 31


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`calibration` are rows that nothing is judged by, `rows` those that everything is, `truth` their target. `table`
    is a choice of them all without the target.
    """

    table: LikeTable
    calibration: Rows
    rows: Rows
    truth: pa.Array
    notes: tuple[str, ...]


def read_evaluation(place: str, target: str, live: Live) -> Evaluation:
    """Read a table as `--like` does; of more than 200,000 rows a random choice. Rows without a truth, and rows that the
    signature refuses, are left out and counted.

    Raises InputError for a table that is missing, empty, lacks columns or has too few rows; ConfigError for a target
    that the model reads.
    """
    table = read_like(place, (), 0)
    if target not in table.columns:
        raise InputError(
            f"--target {target}: {place} has no such column; it has {listing(table.columns)}", field=target
        )
    inputs = {*live.intake.table_columns, *(i.name for i in live.intake.inputs)}
    if target in inputs:
        raise ConfigError(f"--target {target}: the model reads it, so that it is no truth to judge by")
    whole = pa.Table.from_batches(_chosen(place, target, inputs, table.count)).combine_chunks()
    known = whole.filter(pc.invert(whole[target].is_null(nan_is_null=pa.types.is_floating(whole[target].type))))
    notes = []
    if known.num_rows < whole.num_rows:
        notes.append(f"{whole.num_rows - known.num_rows} rows have no {target}, and are left out")
    batch = pa.RecordBatch.from_arrays(
        [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in known.columns], names=known.schema.names
    )
    rows = live.intake.from_arrow(batch.drop_columns([target])) if batch.num_rows else None
    _, good, why = answers(live, rows) if rows is not None else ({}, np.zeros(0, np.bool_), "")
    index = np.random.default_rng(_SEED).permutation(np.flatnonzero(good))
    if len(index) < len(good):
        notes.append(f"{len(good) - len(index)} rows have no answer, and are left out: {why}")
    if rows is None or len(index) < _LEAST:
        told = f": {notes[-1]}" if notes else ""
        raise InputError(
            f"{place}: {len(index)} rows have a truth and an answer; some are calibrated on and the others judged by, "
            f"which takes {_LEAST} at least{told}"
        )
    middle = min(_CALIBRATION, len(index) // 4)
    judged = np.sort(index[middle:])
    features = tuple(n for n in table.features if n != target)
    plain = replace(table, features=features, rows=table.rows.drop_columns([target]))
    truth = batch.column(target).take(pa.array(judged))
    if pa.types.is_dictionary(truth.type):
        truth = truth.dictionary_decode()
    return Evaluation(plain, rows.take(np.sort(index[:middle])), rows.take(judged), truth, tuple(notes))


def answers(live: Live, rows: Rows) -> tuple[dict[str, Array], Array, str]:
    """The outputs of all rows, which of them have an answer (BOOL), and why the first one without has none. Rows are
    asked in calls as a batch run makes them; an output whose shape varies from call to call is left out.
    """
    results = [live.predict(rows.slice(at, at + CALL_ROWS)) for at in range(0, rows.n, CALL_ROWS)]
    outputs = {}
    for name in results[0].outputs.columns:
        parts = [r.outputs[name] for r in results]
        if len({part.shape[1:] for part in parts}) == 1:
            outputs[name] = np.concatenate(parts)
    why = next((p.message for r in results for p in r.problems), "")
    return outputs, np.concatenate([r.answered for r in results]), why


def _chosen(place: str, target: str, inputs: set[str], count: int) -> Iterator[pa.RecordBatch]:
    random = np.random.default_rng(_SEED)
    for batch in table_batches(place):
        part = batch.select([n for n in batch.schema.names if n in inputs or n == target])
        if count > _MOST:
            part = part.filter(pa.array(random.random(part.num_rows) < _MOST / count))
        yield part
