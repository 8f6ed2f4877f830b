"""Dead letters: rows without an answer, as they were read, with where they came from and what was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa

from tidemill.errors import Problem

__all__ = ["DEAD_COLUMNS", "DeadLetters", "dead_schema"]

_PROBLEM = pa.struct([("code", pa.string()), ("field", pa.string()), ("message", pa.string())])
_WHY = pa.schema(
    [
        ("_file", pa.string()),
        ("_row", pa.int64()),
        ("_code", pa.string()),
        ("_field", pa.string()),
        ("_message", pa.string()),
        ("_problems", pa.list_(_PROBLEM)),
    ]
)
DEAD_COLUMNS = tuple(_WHY.names)


def dead_schema(read: pa.Schema) -> pa.Schema:
    """Every column that was read, then `_file`, `_row` (from 0 in the file), the first problem's `_code`, `_field`
    and `_message`, and all `_problems`.
    """
    return pa.schema([*read, *_WHY])


class DeadLetters:
    """Makes the dead letters of a chunk."""

    def __init__(self, read: pa.Schema) -> None:
        self._schema = dead_schema(read)

    def of(
        self, name: str, first_row: int, batch: pa.RecordBatch, problems: Sequence[Problem]
    ) -> tuple[pa.RecordBatch, dict[str, int]]:
        """One letter a row (`problems` is ordered by row), and the number of rows by their first problem's code."""
        by_row = [(row, list(found)) for row, found in groupby(problems, key=lambda p: p.row)]
        index = np.array([row for row, _ in by_row], np.int64)
        firsts = [found[0] for _, found in by_row]
        why = [
            pa.repeat(name, len(index)),
            pa.array(index + first_row),
            pa.array([p.code for p in firsts]),
            pa.array([p.field for p in firsts]),
            pa.array([p.message for p in firsts]),
            pa.array(
                [[{"code": p.code, "field": p.field, "message": p.message} for p in found] for _, found in by_row],
                _WHY.field("_problems").type,
            ),
        ]
        rows = batch.take(pa.array(index))
        letters = pa.RecordBatch.from_arrays([*rows.columns, *why], schema=self._schema)
        return letters, dict(Counter(p.code for p in firsts))
