"""A sealed result: one status a row, and each caller's own part of a merged one."""

from __future__ import annotations

import numpy as np

from tidemill.errors import Late, ModelError, Problem, RowsRejected
from tidemill.prediction.result import Result, rows_error
from tidemill.rows import Rows

MERGED = Result(
    Rows({"y": np.arange(6.0)}, 6),
    [
        Problem(1, "null", "x", "x: is missing"),
        Problem(1, "below_minimum", "z", "z: got -1"),
        Problem(3, "model_failed", "", "the model failed"),
        Problem(5, "late", "", "not answered"),
    ],
)


def test_statuses() -> None:
    assert MERGED.statuses() == ["ok", "rejected", "ok", "failed", "ok", "late"]
    assert Result(Rows({"y": np.zeros(0)}, 0)).statuses() == []


def test_a_callers_part_has_its_own_row_numbers() -> None:
    part = MERGED.slice(1, 4)
    assert part.n == 3
    assert part.outputs["y"].tolist() == [1, 2, 3]
    assert [(p.row, p.code) for p in part.problems] == [(0, "null"), (0, "below_minimum"), (2, "model_failed")]
    assert part.statuses() == ["rejected", "ok", "failed"]
    assert np.shares_memory(part.outputs["y"], MERGED.outputs["y"])


def test_the_whole_is_itself_and_parts_make_the_whole() -> None:
    assert MERGED.slice(0, 6) is MERGED
    parts = [MERGED.slice(i, i + 2) for i in (0, 2, 4)]
    assert [s for p in parts for s in p.statuses()] == MERGED.statuses()
    assert not MERGED.slice(2, 3).problems


def test_the_error_of_refused_rows_tells_the_callers_own_faults_first() -> None:
    error = rows_error(MERGED.problems, 6)
    assert isinstance(error, RowsRejected)
    assert str(error) == "1 of 6 rows rejected: row 1: x: is missing; row 1: z: got -1"
    error = rows_error(MERGED.problems[2:], 6)
    assert isinstance(error, ModelError)
    assert str(error) == "1 of 6 rows failed: row 3: the model failed"
    error = rows_error(MERGED.problems[3:], 6)
    assert isinstance(error, Late)
    assert str(error) == "1 of 6 rows were not answered before the deadline"


def test_the_error_of_many_failed_rows_names_the_first_hundred() -> None:
    error = rows_error([Problem(i, "model_failed", "", "it failed") for i in range(150)], 200)
    assert str(error).startswith("150 of 200 rows failed: row 0: it failed; row 1: ")
    assert str(error).endswith("row 99: it failed; and 50 more")


def test_the_rows_that_are_answered() -> None:
    assert MERGED.answered.tolist() == [True, False, True, False, True, False]
    assert Result(MERGED.outputs).answered.all()
