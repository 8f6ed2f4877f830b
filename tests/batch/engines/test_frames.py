"""Frames: every row of a batch comes back, answered as `Live` answers it, or with the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.batch.support import answers, table
from tests.packages import make
from tidemill.batch.frames import FrameScorer, lay_out, open_for_frames
from tidemill.errors import ConfigError, InputError, TidemillError
from tidemill.model.signature import Input, Output


def scored(package: Path, rows: pa.Table, *, select: tuple[str, ...] = (), keep: tuple[str, ...] = ("*",)) -> pa.Table:
    live = open_for_frames(package)
    scorer = FrameScorer(live, lay_out(live, rows.schema, keep, select))
    return pa.Table.from_batches([scorer.score(batch) for batch in rows.to_batches(max_chunksize=77)])


WHY = ["_status", "_code", "_field", "_message"]


def test_answers_stand_beside_their_rows(package: Path) -> None:
    rows = table(500)
    found = scored(package, rows)
    assert found.column_names == [*rows.column_names, "score", "pair", "verdict", *WHY]
    assert found.select(rows.column_names).equals(rows)
    for name, expected in answers(rows).items():
        assert found[name].to_pylist() == expected
    assert found["_status"].to_pylist() == ["ok"] * 500
    assert all(found[name].null_count == 500 for name in WHY[1:])


def test_a_dead_row_keeps_its_place_and_has_no_answer(package: Path) -> None:
    rows = table(100)
    a = rows["a"].to_pylist()
    a[0], a[41], a[99] = -1.0, None, -2.0
    found = scored(package, rows.set_column(1, "a", pa.array(a, pa.float32()))).to_pylist()
    good = answers(rows)
    for i, row in enumerate(found):
        if i in (0, 41, 99):
            assert (row["score"], row["pair"], row["verdict"]) == (None, None, None)
            assert row["_status"] == "rejected"
            assert (row["_code"], row["_field"]) == ("null" if i == 41 else "below_minimum", "a")
        else:
            assert row["score"] == good["score"][i]
            assert (row["_status"], row["_message"]) == ("ok", None)
    assert found[0]["_message"] == "a: got -1.0, expected ≥ 0"


def test_only_what_was_asked_for(package: Path) -> None:
    found = scored(package, table(10), select=("verdict",), keep=("label", "id", "label"))
    assert found.column_names == ["label", "id", "verdict", *WHY]


@pytest.mark.parametrize(
    ("change", "wishes", "message"),
    [
        ({"drop": "b"}, {}, "column 'b' is missing; the table has 'id', 'a', 'c', 'label'"),
        ({"b": pa.array(["x", "y"])}, {}, "b: a column of string"),
        ({"b": pa.array([[1.0], [2.0]])}, {}, "b: "),
        ({"score": pa.array([1, 2])}, {}, "column 'score' is both passed through and a model output"),
        ({"_code": pa.array([1, 2])}, {}, "column '_code' has a name that the reasons need; rename it"),
        ({}, {"keep": ("nobody",)}, "pass_through: the table has no column 'nobody'; it has id, a, b, c, label"),
        ({}, {"select": ("nothing",)}, "select: the model has no output 'nothing'; it has score, pair, verdict"),
        ({}, {"keep": "id"}, "pass_through is the text 'id', expected a list of names"),
    ],
)
def test_what_does_not_fit_is_said_before_there_is_a_row(
    package: Path, change: dict[str, Any], wishes: dict[str, Any], message: str
) -> None:
    rows = table(2)
    for name, values in change.items():
        if name == "drop":
            rows = rows.drop_columns([values])
        elif name in rows.column_names:
            rows = rows.set_column(rows.column_names.index(name), name, values)
        else:
            rows = rows.append_column(name, values)
    with pytest.raises((ConfigError, InputError)) as caught:
        scored(package, rows, **wishes)
    assert message in str(caught.value)


def test_two_columns_of_one_name(package: Path) -> None:
    rows = table(2)
    live = open_for_frames(package)
    with pytest.raises(TidemillError, match="2 columns named 'id'; keep one"):
        lay_out(live, rows.append_column("id", rows["id"]).schema, ("*",), ())


def test_a_column_of_any_kind_is_passed_through(package: Path) -> None:
    """What is not read by the model may be anything, also where its type has no empty array of its own."""
    rows = table(2)
    for name, values in {
        "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        "words": pa.array(["a", "a"]).dictionary_encode(),
        "money": pa.array([1, 2], pa.decimal128(10, 2)),
        "struct": pa.array([{"x": [1]}, None]),
        "id5": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16] * 2, pa.binary(16))),
    }.items():
        rows = rows.append_column(name, values)
    assert scored(package, rows).select(rows.column_names).equals(rows)


def test_rows_that_depend_on_each_other_are_refused(tmp_path: Path) -> None:
    one, out = Input(name="x", datatype="FP64"), Output(name="y", datatype="FP64")
    package = make(tmp_path / "p", "onnx", b"never loaded", [one], [out], rows_independent=False)
    with pytest.raises(ConfigError, match="its rows depend on each other"):
        open_for_frames(package.directory)


def test_bytes_that_are_no_text_are_an_error_of_the_batch(tmp_path: Path) -> None:
    """Some engines call a column text and put into it what they like."""
    one, out = Input(name="x", datatype="BYTES"), Output(name="y", datatype="BYTES")
    live = open_for_frames(make(tmp_path / "p", "python", ECHO, [one], [out]).directory)
    broken = pa.array([b"good", b"\xff"]).view(pa.string())
    batch = pa.record_batch({"x": broken})
    scorer = FrameScorer(live, lay_out(live, batch.schema, (), ()))
    with pytest.raises(InputError, match="a batch of 2 rows cannot be understood"):
        scorer.score(batch)


ECHO = """
class Model:
    inputs = {"x": ("BYTES", [-1])}
    outputs = {"y": ("BYTES", [-1])}

    def predict(self, rows):
        return {"y": rows["x"]}
"""


BUSY = """
from tidemill.errors import Transient

class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}
    calls = 0

    def predict(self, rows):
        self.calls += 1
        if self.calls == 1 or (rows["x"] < 0).any():
            raise Transient("busy")
        return {"y": rows["x"]}
"""


def test_a_call_that_fails_for_a_moment_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what fails for longer has failed, and was not rejected."""
    monkeypatch.setattr("tidemill.batch.workers.transient._FIRST", 0.01)
    one, out = Input(name="x", datatype="FP64"), Output(name="y", datatype="FP64")
    package = make(tmp_path / "p", "python", BUSY, [one], [out]).directory
    assert scored(package, pa.table({"x": [1.0, 2.0]}))["y"].to_pylist() == [1.0, 2.0]
    [row] = scored(package, pa.table({"x": [-1.0]}), keep=()).to_pylist()
    assert (row["y"], row["_status"], row["_code"]) == (None, "failed", "transient")
