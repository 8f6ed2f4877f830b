"""Specimens break each rule of a signature by the smallest step, and touch nothing else."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assurance.support import every_datatype
from tidemill.assurance import specimens
from tidemill.assurance.tables import to_table
from tidemill.model.signature import Column, Input
from tidemill.prediction.intake import Intake
from tidemill.prediction.live import Live
from tidemill.prediction.profile import example_rows
from tidemill.prediction.validate import Validator
from tidemill.rows import Rows


def test_each_rule_is_broken_once_by_the_smallest_step() -> None:
    inputs = [
        Input(name="a", datatype="INT8", minimum=-3, maximum=127),
        Input(name="b", datatype="FP32", minimum=0.1, nullable=True),
        Input(name="c", datatype="BYTES", categories=("x",)),
        Input(name="m", datatype="FP64", shape=(-1, 2), columns=(Column(name="p"), Column(name="q", nullable=True))),
    ]
    found = [(e.field, e.code) for e in specimens.breaking(inputs)]
    assert found == [
        ("a", "null"), ("a", "below_minimum"),  # 128 is no INT8
        ("b", "below_minimum"),
        ("c", "null"), ("c", "unknown_category"),
        ("p", "null"),
    ]  # fmt: skip
    values = {(e.field, e.code): e.value for e in specimens.breaking(inputs)}
    assert values["a", "below_minimum"] == -4
    assert values["b", "below_minimum"] == np.nextafter(np.float32(0.1), np.float32(0))
    assert [e.field for e in specimens.missing(inputs)] == ["b", "q"]
    assert [(e.field, e.value) for e in specimens.at_limits(inputs)] == [("a", -3), ("a", 127), ("b", 0.1), ("c", "x")]


def test_the_path_finds_exactly_the_rule_that_was_broken(tmp_path: Path) -> None:
    live = Live.open(every_datatype(tmp_path))
    rows = example_rows(live, 1)
    edits = specimens.breaking(live.package.manifest.inputs)
    assert len(edits) >= 40
    for edit in edits:
        problems = live.predict(specimens.apply(rows, [(0, edit)])).problems
        assert [(p.code, p.field) for p in problems] == [(edit.code, edit.field)], edit


numbers = st.sampled_from(["UINT8", "INT16", "INT64", "UINT64", "FP16", "FP32", "FP64"])


@given(numbers, st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_limits_pass_and_the_next_value_does_not(datatype: str, low: float, width: float) -> None:
    one = Input(name="x", datatype=datatype, minimum=low, maximum=low + width)  # type: ignore[arg-type]
    dtype = one.type.dtype
    if dtype.kind != "f" and not (np.iinfo(dtype).min <= low and low + width <= np.iinfo(dtype).max):
        return
    validator = Validator([one])
    for edit in (*specimens.at_limits([one]), *specimens.breaking([one])):
        with np.errstate(over="ignore"):
            rows = specimens.apply(Rows({"x": np.zeros(1, dtype)}, 1), [(0, edit)])
        assert [p.code for p in validator.problems(rows)] == ([edit.code] if edit.code else [])


def test_edits_leave_the_given_rows_alone(tmp_path: Path) -> None:
    live = Live.open(every_datatype(tmp_path))
    rows = example_rows(live, 1)
    before = {name: array.copy() for name, array in rows.columns.items()}
    for edit in specimens.breaking(live.package.manifest.inputs):
        specimens.apply(rows, [(0, edit)])
    assert not rows.valid
    for name, array in before.items():
        assert np.array_equal(array, rows[name])


def test_rows_come_back_from_a_table_as_they_were(tmp_path: Path) -> None:
    live = Live.open(every_datatype(tmp_path))
    inputs = live.package.manifest.inputs
    edits = [*specimens.breaking(inputs), *specimens.missing(inputs)]
    rows = specimens.apply(specimens.tiled(example_rows(live, 1), len(edits)), list(enumerate(edits)))
    back = Intake(inputs).from_arrow(to_table(inputs, rows).combine_chunks().to_batches()[0])
    for one in inputs:
        mask = rows.valid.get(one.name)
        kept = np.ones(rows[one.name].shape, np.bool_) if mask is None else mask
        np.testing.assert_array_equal(back[one.name][kept], rows[one.name][kept])
        np.testing.assert_array_equal(back.valid.get(one.name, np.ones(kept.shape, np.bool_)), kept)


@pytest.mark.parametrize("n", [1, 7, 20])
def test_tiled_repeats_in_order(n: int) -> None:
    rows = Rows({"x": np.arange(7)}, 7)
    assert specimens.tiled(rows, n)["x"].tolist() == [i % 7 for i in range(n)]
