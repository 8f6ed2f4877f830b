"""A sealed result: outputs aligned one to one with the input rows, and a reason for each row without an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tidemill.errors import Problem
from tidemill.rows import Rows

__all__ = ["STATUSES", "Result"]

# Row statuses, by the problem's code: everything validation finds is "rejected".
STATUSES = {"model_failed": "failed", "late": "late"}


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

    def slice(self, start: int, stop: int) -> Result:
        """One caller's part of a merged result."""
        if start == 0 and stop == self.outputs.n:
            return self
        problems = [p.at(p.row - start) for p in self.problems if start <= p.row < stop] if self.problems else ()
        return Result(self.outputs.slice(start, stop), problems)

    def statuses(self) -> list[str]:
        """`ok`, `rejected`, `failed` or `late` for each row."""
        out = ["ok"] * self.n
        for p in self.problems:
            out[p.row] = STATUSES.get(p.code, "rejected")
        return out
