"""The same rows brought as JSON lists, records, arrays and Arrow batches give the same values, statuses and texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runtimes.cases import Case
from tests.runtimes.compare import assert_same
from tidemill.prediction.columns import arrow_column
from tidemill.prediction.intake import Intake
from tidemill.prediction.live import Live
from tidemill.rows import Rows

N = 8


def json_cells(rows: Rows, name: str) -> Any:
    """A column as JSON carries it: null where missing."""
    array = rows[name]
    missing = ~rows.valid[name] if name in rows.valid else np.zeros(array.shape, bool)
    if array.dtype.kind == "f":
        missing = missing | np.isnan(array)
    cells = array.astype(object)
    cells[missing] = None
    return cells.tolist()


def brought(intake: Intake, rows: Rows) -> dict[str, Rows]:
    """The rows by each way in, as the raw tensors and, where there are any, as their scalar columns."""
    cells = {i.name: json_cells(rows, i.name) for i in intake.inputs}
    masks = {f"{k}.valid": v for k, v in rows.valid.items()}
    columns: dict[str, list[Any]] = {}
    for one in intake.inputs:
        if one.columns:
            columns |= {c.name: [row[j] for row in cells[one.name]] for j, c in enumerate(one.columns)}
        else:
            columns[one.name] = cells[one.name]
    fields = [arrow_column(i, rows[i.name], rows.valid.get(i.name)) for i in intake.inputs]
    scalar_types = [i.type.arrow() for i in intake.inputs for _ in (i.columns or (i,))]
    ways = {
        "lists as nested": intake.from_lists({k: (None, v) for k, v in cells.items()}),
        "lists with shapes": intake.from_lists(
            {k: (rows[k].shape, np.array(v, object).reshape(-1).tolist()) for k, v in cells.items()}
        ),
        "columns": intake.from_lists({k: (None, v) for k, v in columns.items()}),
        "records": intake.from_records([{k: v[i] for k, v in columns.items()} for i in range(rows.n)]),
        "arrays": intake.from_arrays({**rows.columns, **masks}),
        "arrays, cast": intake.from_arrays({**rows.columns, **masks}, cast=True),
        "arrays beside lists": intake.from_tensors(
            {n: a if i % 2 else (None, cells[n]) for i, (n, a) in enumerate(rows.columns.items())} | masks
        ),
        "lists beside arrays": intake.from_tensors(
            {n: (a.shape, cells[n]) if i % 2 else a for i, (n, a) in enumerate(rows.columns.items())} | masks
        ),
        "arrow": intake.from_arrow(pa.RecordBatch.from_arrays(fields, [i.name for i in intake.inputs])),
    }
    if all(len(i.shape) == 1 or i.columns for i in intake.inputs):
        batch = pa.RecordBatch.from_arrays(
            [pa.array(v, t) for v, t in zip(columns.values(), scalar_types, strict=True)], list(columns)
        )
        ways["arrow columns"] = intake.from_arrow(batch)
        ways["a slice of arrow columns"] = intake.from_arrow(
            pa.concat_tables([pa.table(batch)] * 3).combine_chunks().to_batches()[0].slice(rows.n, rows.n)
        )
    return ways


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), bad=st.sets(st.integers(0, N - 1), max_size=3))
def test_every_way_in(case: Case, live: Live, seed: int, bad: set[int]) -> None:
    rows = case.spoiled(case.rows(live.intake, N, seed), sorted(bad))
    expected = live.predict(rows)
    assert expected.statuses().count("rejected") == len(bad)
    for taken in brought(live.intake, rows).values():
        assert_same(live.predict(taken), expected, live.package.manifest.outputs)
