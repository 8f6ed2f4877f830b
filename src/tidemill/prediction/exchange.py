"""What Python callers bring and take: dicts, records, arrays and tables in; arrays and Arrow out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.errors import InputError, Problem
from tidemill.model.signature import Output
from tidemill.prediction.columns import output_arrays, output_schema, where_answered
from tidemill.prediction.intake import Intake, Listed
from tidemill.rows import Array, Rows

__all__ = ["Prediction", "to_rows"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Answers aligned one to one with the rows asked.

    `outputs`: name → array of shape (n, …) in the signature's dtype. `problems` names the rows without an answer,
    whose cells are fillers (NaN, 0, None); empty unless bad rows were allowed. `statuses`: ok, rejected, failed or
    late for each row. `signature` is the package's declaration of the outputs.
    """

    outputs: Mapping[str, Array]
    problems: tuple[Problem, ...]
    statuses: tuple[str, ...]
    signature: tuple[Output, ...]

    def __len__(self) -> int:
        return len(self.statuses)

    def __getitem__(self, output: str) -> Array:
        return self.outputs[output]

    def to_arrow(self) -> pa.Table:
        """One column an output (vectors as fixed-size lists), null where a row has no answer."""
        columns = output_arrays(self.signature, Rows(self.outputs, len(self)))
        if self.problems:
            columns = where_answered(columns, np.array([s == "ok" for s in self.statuses], np.bool_))
        return pa.Table.from_arrays(columns, schema=output_schema(self.signature))


def to_rows(intake: Intake, data: Any) -> Rows:
    """Whatever a Python caller brings, as the signature's rows. Raises InputError."""
    if isinstance(data, Mapping):
        return intake.from_tensors({name: _tensor(values) for name, values in data.items()}, cast=True)
    if isinstance(data, np.ndarray):
        return intake.from_arrays(_of_array(intake, data), cast=True)
    if isinstance(data, list):
        return intake.from_records(data)
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        table = pa.table(data).combine_chunks()
        batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        return Rows.concat([intake.from_arrow(batch) for batch in batches])
    raise InputError(
        f"cannot read rows from {type(data).__name__}: expected a dict of columns, a list of dicts, an array, "
        "or a table (Arrow, pandas, Polars)"
    )


def _tensor(values: Any) -> Array | Listed:
    """Lists are read as JSON is (None is a missing cell), everything else as the array it is."""
    return (None, _plain_list(values)) if isinstance(values, list | tuple) else np.asarray(values)


def _plain_list(values: Any) -> list[Any]:
    return [
        _plain_list(v) if isinstance(v, list | tuple) else v.tolist() if isinstance(v, np.generic | np.ndarray) else v
        for v in values
    ]


def _of_array(intake: Intake, data: Array) -> dict[str, Array]:
    if len(intake.inputs) == 1:
        return {intake.inputs[0].name: data}
    names = intake.table_columns
    if data.ndim != 2 or data.shape[1] != len(names):
        raise InputError(
            f"got an array of shape {list(data.shape)}; the model has {len(names)} columns: "
            f"expected [rows, {len(names)}], or a dict of columns"
        )
    return {name: data[:, j] for j, name in enumerate(names)}
