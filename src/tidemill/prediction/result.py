"""A sealed result: outputs aligned one to one with the input rows, and a reason for each row without an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidemill.errors import Late, ModelError, Problem, RowsRejected, TidemillError, row_listing
from tidemill.rows import Array, Rows

__all__ = ["STATUSES", "Result", "rows_error"]

# Row statuses, by the problem's code: everything validation finds is "rejected".
STATUSES = {"model_failed": "failed", "transient": "failed", "late": "late"}


@dataclass(slots=True)
class Result:
    """`outputs` has n rows; where `problems` names a row its cells are fillers (NaN, 0, None) and mean nothing.

    `problems` is ordered by row. `memo` is scratch space for encoders that render all of a merged call at once.
    """

    outputs: Rows
    problems: Sequence[Problem] = ()
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return self.outputs.n

    @property
    def answered(self) -> Array:
        """BOOL of shape (n,): the rows that have an answer."""
        good = np.ones(self.n, np.bool_)
        good[[p.row for p in self.problems]] = False
        return good

    def slice(self, start: int, stop: int) -> Result:
        """One caller's part of a merged result."""
        if start == 0 and stop == self.outputs.n:
            return self
        return Result(self.outputs.slice(start, stop), self.problems_of(start, stop))

    def problems_of(self, start: int, stop: int) -> Sequence[Problem]:
        """The problems of one caller's rows, counted from the first of them."""
        return [p.at(p.row - start) for p in self.problems if start <= p.row < stop]

    def statuses(self) -> list[str]:
        """`ok`, `rejected`, `failed` or `late` for each row."""
        out = ["ok"] * self.n
        for p in self.problems:
            out[p.row] = STATUSES.get(p.code, "rejected")
        return out


def rows_error(problems: Sequence[Problem], total: int) -> TidemillError:
    """The error of a call of `total` rows that is refused whole for these rows. The caller's own faults first."""
    rejected = [p for p in problems if p.code not in STATUSES]
    if rejected:
        return RowsRejected(rejected, total)
    failed = [p for p in problems if p.code != "late"]
    if not failed:
        return Late(f"{len(problems)} of {total} rows were not answered before the deadline")
    return ModelError(f"{len(failed)} of {total} rows failed: {row_listing(failed)}")
