"""Rows that raise, end their process, eat memory or never return, as the first, the last and the only one of an input:
dead letters of whatever is written, and every neighbour answered.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import polars as pl
import pytest

from tests.batch.workers.support import CRASH, EAT, EXIT, MODEL, RAISE, STUCK, letters, poisonous, rows_with
from tests.packages import make
from tidemill.batch import ScoreOptions, score
from tidemill.model.signature import Input, Output

SINKS = ["out", "out.csv", "sqlite:out.db?table=scores"]
CODES = {EXIT: "worker_died", CRASH: "worker_died", STUCK: "timeout", EAT: "out_of_memory", RAISE: "model_failed"}
ROWS = 30


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return poisonous(tmp_path_factory.mktemp("package") / "poisonous")


@pytest.fixture(scope="module")
def threaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by a runtime that threads call: here a row can but raise."""
    from onnx import TensorProto, helper

    # A row of -5 is read from beyond the end of a table of eight.
    graph = helper.make_graph(
        [
            helper.make_node("Equal", ["x", "bad"], ["is_bad"]),
            helper.make_node("Cast", ["is_bad"], ["index"], to=TensorProto.INT64),
            helper.make_node("Mul", ["index", "far"], ["at"]),
            helper.make_node("Gather", ["zeros", "at"], ["nothing"]),
            helper.make_node("Mul", ["x", "two"], ["twice"]),
            helper.make_node("Add", ["twice", "nothing"], ["y"]),
        ],
        "poison",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n"])],
        [
            helper.make_tensor("bad", TensorProto.DOUBLE, [1], [float(RAISE)]),
            helper.make_tensor("far", TensorProto.INT64, [1], [1000]),
            helper.make_tensor("zeros", TensorProto.DOUBLE, [8], [0.0] * 8),
            helper.make_tensor("two", TensorProto.DOUBLE, [1], [2.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    inputs, outputs = [Input(name="x", datatype="FP64")], [Output(name="y", datatype="FP64")]
    directory = tmp_path_factory.mktemp("package") / "threaded"
    return make(directory, "onnx", model.SerializeToString(), inputs, outputs).directory


def answered(sink: str) -> list[tuple[int, float]]:
    """What the output holds."""
    if sink.startswith("sqlite"):
        connection = sqlite3.connect("out.db")
        try:
            return connection.execute("SELECT id, y FROM scores ORDER BY id").fetchall()
        finally:
            connection.close()
    read = pl.read_csv(sink) if sink.endswith("csv") else pl.read_parquet(f"{sink}/*.parquet")
    return [(int(i), float(y)) for i, y in read.select("id", "y").rows()]


def check(package: Path, sink: str, n: int, poison: dict[int, int], options: ScoreOptions) -> None:
    source = rows_with(n, poison, Path("in.parquet").absolute())
    report = score(package, source, sink, options)
    assert (report.state, report.read, report.dead) == ("done", n, len(poison))
    assert answered(sink) == [(i, 2.0 * i) for i in range(n) if i not in poison]
    assert report.dead_letters is not None
    dead = letters(report.dead_letters)
    assert dead["_row"].to_list() == sorted(poison)
    assert dead["_code"].to_list() == [CODES[poison[r]] for r in sorted(poison)]
    assert dead["x"].to_list() == [poison[r] for r in sorted(poison)]
    assert dead["id"].to_list() == sorted(poison)
    assert score(package, source, sink, options).state == "already_done"


@pytest.mark.parametrize(
    ("sink", "first", "last"),
    [(s, *ends) for s, ends in zip(SINKS, ((EXIT, STUCK), (EAT, RAISE), (CRASH, EXIT)), strict=True)],
)
def test_by_processes(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, first: int, last: int
) -> None:
    """First and last at once, of two kinds."""
    monkeypatch.chdir(tmp_path)
    options = ScoreOptions(run_id="r1", pass_through=("id",), workers=1, call_timeout=2.5, worker_memory=400 << 20)
    check(package, sink, ROWS, {0: first, ROWS - 1: last}, options)


@pytest.mark.parametrize("kind", [EXIT, RAISE], ids=["exit", "raise"])
@pytest.mark.parametrize("sink", SINKS)
def test_the_only_row(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, kind: int) -> None:
    """An output without a row is an output."""
    monkeypatch.chdir(tmp_path)
    check(package, sink, 1, {0: kind}, ScoreOptions(run_id="r1", pass_through=("id",), workers=1))


@pytest.mark.parametrize(("n", "poison"), [(ROWS, (0, ROWS - 1)), (ROWS, (0,)), (ROWS, (ROWS - 1,)), (1, (0,))])
@pytest.mark.parametrize("sink", SINKS)
def test_by_threads(
    threaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, n: int, poison: tuple[int, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ScoreOptions(run_id="r1", pass_through=("id",), workers=2, chunk_rows=10)
    check(threaded, sink, n, dict.fromkeys(poison, RAISE), options)


@pytest.mark.parametrize("sink", SINKS)
def test_by_threads_asked_to_end_calls(
    threaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str
) -> None:
    """A limit of a call makes processes of them."""
    monkeypatch.chdir(tmp_path)
    options = ScoreOptions(run_id="r1", pass_through=("id",), workers=1, chunk_rows=10, call_timeout=60)
    check(threaded, sink, ROWS, dict.fromkeys((0, ROWS - 1), RAISE), options)


assert "(x == -5).any()" in MODEL
