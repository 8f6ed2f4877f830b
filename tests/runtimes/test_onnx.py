"""ONNX Runtime: what the graph and the signature must agree on, and what ONNX cannot carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.runtimes import packages
from tests.runtimes.packages import doubling, graph, make
from tidemill.errors import PackageError
from tidemill.model.signature import Column, Input, Output
from tidemill.prediction.live import Live
from tidemill.rows import Rows
from tidemill.runtimes.onnx import load

Y = (Output(name="y", datatype="FP32"),)


def x(datatype: str = "FP32", shape: tuple[int, ...] = (-1,), **fields: Any) -> Input:
    return Input(name="x", datatype=datatype, shape=shape, **fields)


def opened(tmp_path: Path, data: bytes, inputs: list[Input], outputs: Any = Y, **more: Any) -> Live:
    return Live.open(make(tmp_path / "p", "onnx", data, inputs, outputs, **more))


@pytest.mark.parametrize(
    ("data", "inputs", "outputs", "text"),
    [
        (doubling(), [x("FP64")], Y, "input 'x' is FP32 in the graph, declared FP64"),
        (doubling(), [x(shape=(-1, 3))], Y, r"input 'x' has shape \[-1\] in the graph, declared \[-1, 3\]"),
        (doubling(shape=("n", 4)), [x()], Y, r"input 'x' has shape \[-1, 4\] in the graph, declared \[-1\]"),
        (doubling(shape=("n", 4)), [x(shape=(-1, 3))], Y, r"has shape \[-1, 4\] in the graph, declared \[-1, 3\]"),
        (doubling(shape=("n", 4)), [x(shape=(-1, -1))], Y, r"has shape \[-1, 4\] in the graph, declared \[-1, -1\]"),
        (doubling(), [Input(name="z", datatype="FP32")], Y, "graph input 'x' is not declared; input 'z' is not in"),
        (doubling(), [x()], (Output(name="q", datatype="FP32"),), "output 'q' is not in the graph, which has y"),
        (doubling(), [x()], (Output(name="y", datatype="INT64"),), r"output 'y' is tensor\(float\) in the graph"),
        (doubling("INT64"), [x("INT64", nullable=True)], (Output(name="y", datatype="INT64"),), "declare a fill"),
    ],
)
def test_a_graph_and_a_signature_that_differ_are_refused(
    data: bytes, inputs: list[Input], outputs: Any, text: str, tmp_path: Path
) -> None:
    with pytest.raises(PackageError, match=rf"model\.onnx and the signature differ: .*{text}"):
        opened(tmp_path, data, inputs, outputs)


def test_all_differences_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(PackageError) as error:
        opened(tmp_path, doubling(), [x("FP64", (-1, 2))], (Output(name="y", datatype="FP64"),))
    assert str(error.value).count(";") == 2


def test_symbolic_dimensions_take_what_the_signature_says(tmp_path: Path) -> None:
    live = opened(
        tmp_path, doubling(shape=("n", "k")), [x(shape=(-1, 3))], (Output(name="y", datatype="FP32", shape=(-1, 3)),)
    )
    assert (
        live.predict(live.intake.from_arrays({"x": np.ones((2, 3), np.float32)})).outputs["y"].tolist() == [[2] * 3] * 2
    )


def test_a_graph_need_not_state_its_shapes(tmp_path: Path) -> None:
    data = graph([helper.make_node("Add", ["x", "x"], ["y"])], {"x": ("FP32", None)}, {"y": ("FP32", None)})
    live = opened(tmp_path, data, [x()])
    assert live.predict(live.intake.from_arrays({"x": np.array([1, 2], np.float32)})).outputs["y"].tolist() == [2, 4]


@pytest.mark.parametrize("datatype", ["INT32", "INT64", "FP16", "FP32", "FP64"])
def test_numbers_of_every_width(datatype: str, tmp_path: Path) -> None:
    live = opened(tmp_path, doubling(datatype), [x(datatype)], (Output(name="y", datatype=datatype),))
    rows = live.intake.from_lists({"x": ([3], [1, 2, 3])})
    result = live.predict(rows).outputs["y"]
    assert result.tolist() == [2, 4, 6]
    assert result.dtype == rows["x"].dtype


def test_scalars_go_into_and_come_out_of_n_by_1(tmp_path: Path) -> None:
    """skl2onnx gives every column of a pipeline the shape (n, 1)."""
    live = opened(tmp_path, doubling(shape=("n", 1)), [x()])
    assert live.predict(live.intake.from_records([{"x": 1.5}, {"x": 2}])).outputs["y"].tolist() == [3, 4]
    live = opened(
        tmp_path / "2",
        doubling(shape=("n", 1)),
        [x(shape=(-1, 1))],
        (Output(name="y", datatype="FP32", shape=(-1, 1)),),
    )
    assert live.predict(live.intake.from_records([{"x": 1.5}, {"x": 2}])).outputs["y"].tolist() == [[3], [4]]


def echo(shape: Any = ("n",)) -> bytes:
    return graph([helper.make_node("Identity", ["x"], ["y"])], {"x": ("BYTES", shape)}, {"y": ("BYTES", shape)})


TEXT = (Output(name="y", datatype="BYTES"),)


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    live = opened(tmp_path, echo(), [x("BYTES")], TEXT)
    words = ["a", "", "Tromsø", "日本", "nul\0inside"]
    assert live.predict(live.intake.from_lists({"x": ([5], words)})).outputs["y"].tolist() == words


def test_missing_text_must_be_filled(tmp_path: Path) -> None:
    """ONNX Runtime would write None as the word 'None'."""
    with pytest.raises(PackageError, match="input 'x' is nullable, but ONNX has no missing BYTES; declare a fill"):
        opened(tmp_path, echo(), [x("BYTES", nullable=True)], TEXT)
    live = opened(tmp_path / "2", echo(), [x("BYTES", nullable=True, fill="?")], TEXT)
    assert live.predict(live.intake.from_lists({"x": (None, ["a", None])})).outputs["y"].tolist() == ["a", "?"]


def test_raw_bytes_are_refused(tmp_path: Path) -> None:
    """ONNX Runtime would write b'\\x00' as the text "b'\\\\x00'"."""
    with pytest.raises(PackageError, match="input 'x' is binary, but ONNX strings are text"):
        opened(tmp_path, echo(), [x("BYTES", binary=True)], TEXT)


def test_missing_integers_must_be_filled(tmp_path: Path) -> None:
    outputs = (Output(name="y", datatype="INT64", shape=(-1, 2)),)
    columns = (Column(name="a", nullable=True), Column(name="b"))
    with pytest.raises(PackageError, match="no missing INT64"):
        opened(tmp_path, doubling("INT64", ("n", 2)), [x("INT64", (-1, 2), columns=columns)], outputs)
    live = opened(tmp_path / "2", doubling("INT64", ("n", 2)), [x("INT64", (-1, 2), columns=columns, fill=-1)], outputs)
    result = live.predict(live.intake.from_records([{"a": 5, "b": 6}, {"b": 7}]))
    assert result.outputs["y"].tolist() == [[10, 12], [-2, 14]]


def test_a_rejected_null_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    """The mask that told of it is still there when the others reach the graph."""
    live = opened(tmp_path, doubling("INT64"), [x("INT64")], (Output(name="y", datatype="INT64"),))
    result = live.predict(live.intake.from_lists({"x": (None, [1, None, 3])}))
    assert result.statuses() == ["ok", "rejected", "ok"]
    assert result.outputs["y"][[0, 2]].tolist() == [2, 6]


def test_a_mask_that_a_transform_leaves_is_refused(tmp_path: Path) -> None:
    files = {"transform.py": "def before(rows):\n    return rows\n"}
    fields = {"files": files, "transform": "transform.py"}
    live = opened(
        tmp_path, doubling("INT64"), [x("INT64", nullable=True)], (Output(name="y", datatype="INT64"),), **fields
    )
    result = live.predict(live.intake.from_lists({"x": (None, [1, None])}))
    assert result.statuses() == ["ok", "failed"]
    assert "x: an ONNX graph has no missing integers or booleans" in result.problems[0].message


def test_a_transform_that_forgets_an_input_is_named(tmp_path: Path) -> None:
    fields = {
        "files": {"transform.py": "def before(rows):\n    return {'w': rows['x']}\n"},
        "transform": "transform.py",
    }
    live = opened(tmp_path, doubling(), [x()], **fields)
    result = live.predict(live.intake.from_lists({"x": (None, [1.0])}))
    assert "no column 'x' for the graph; transform.before gave w" in result.problems[0].message


def test_nan_is_the_graphs_to_read(tmp_path: Path) -> None:
    live = opened(tmp_path, doubling(), [x(nullable=True)])
    assert np.isnan(live.predict(live.intake.from_lists({"x": (None, [1.0, None])})).outputs["y"]).tolist() == [
        False,
        True,
    ]


# -- a fixed first axis ----------------------------------------------------------------------------------------


def test_a_fixed_call_size_must_be_declared(tmp_path: Path) -> None:
    for spec in ({}, {"max_call_rows": 9}):
        with pytest.raises(PackageError, match=r"takes 4 rows a call; set runtime\.max_call_rows = 4"):
            opened(tmp_path, doubling(shape=(4,)), [x()], spec=spec)
    with pytest.raises(PackageError, match="rows depend on each other"):
        opened(tmp_path, doubling(shape=(4,)), [x()], spec={"max_call_rows": 4}, rows_independent=False)


@pytest.mark.parametrize("size", [1, 4])
def test_calls_are_cut_and_filled_up_to_a_fixed_size(size: int, tmp_path: Path) -> None:
    live = opened(tmp_path, doubling(shape=(size,)), [x()], spec={"max_call_rows": size})
    for n in (0, 1, 3, 4, 5, 11):
        values = np.arange(n, dtype=np.float32)
        result = live.predict(live.intake.from_arrays({"x": values}))
        assert result.statuses() == ["ok"] * n
        assert result.outputs["y"].tolist() == (2 * values).tolist()


# -- the session -----------------------------------------------------------------------------------------------


def test_an_unknown_provider_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"WarpDrive is not available here: expected one of .*CPUExecutionProvider"):
        opened(tmp_path, doubling(), [x()], spec={"providers": ("WarpDrive",)})


def test_only_declared_outputs_are_computed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    data = graph(nodes, {"x": ("FP32", ["n"])}, {"y": ("FP32", ["n"]), "z": ("FP32", ["n"])})
    runtime = load(make(tmp_path / "p", "onnx", data, [x()], Y))
    assert list(runtime.run(Rows({"x": np.ones(1, np.float32)}, 1)).columns) == ["y"]


def test_maps_and_sequences_are_no_outputs(tmp_path: Path) -> None:
    """skl2onnx's zipmap: a list of dicts instead of a tensor of probabilities."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    features = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    model = to_onnx(LogisticRegression().fit(features, [0, 0, 1, 1]), features).SerializeToString()
    inputs = [Input(name="X", datatype="FP32", shape=(-1, 1))]
    with pytest.raises(PackageError, match=r"output 'output_probability' is seq\(map"):
        opened(tmp_path, model, inputs, (Output(name="output_probability", datatype="FP32", shape=(-1, 2)),))
    live = opened(tmp_path / "2", model, inputs, (Output(name="output_label", datatype="INT64"),))
    assert live.predict(live.intake.from_arrays({"X": features})).outputs["output_label"].tolist() == [0, 0, 1, 1]


def test_a_pipeline_of_columns_agrees_with_scikit_learn(tmp_path: Path) -> None:
    """Text and numbers, each column (n, 1) in the graph, filled where missing as the pipeline was taught."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame, target = packages.people()
    frame = frame.assign(city=frame["city"].fillna("?"), income=frame["income"].fillna(0).astype("f4"))[
        ["income", "city"]
    ]
    steps = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough")
    model = make_pipeline(steps, RandomForestClassifier(9, random_state=0)).fit(frame, target)
    types = [("income", FloatTensorType([None, 1])), ("city", StringTensorType([None, 1]))]
    converted = to_onnx(model, initial_types=types, options={"zipmap": False})
    inputs = [
        Input(name="income", datatype="FP32", nullable=True, fill=0.0),
        Input(name="city", datatype="BYTES", nullable=True, fill="?"),
    ]
    outputs = (Output(name="label", datatype="BYTES"), Output(name="probabilities", datatype="FP32", shape=(-1, 2)))
    live = opened(tmp_path, converted.SerializeToString(), inputs, outputs)
    result = live.predict(live.intake.from_arrays({k: frame[k].to_numpy() for k in frame}))
    assert result.outputs["label"].tolist() == model.predict(frame).tolist()
    np.testing.assert_allclose(result.outputs["probabilities"], model.predict_proba(frame), atol=1e-6)


def test_a_call_that_fails_writes_nothing_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A server's stderr is JSON lines, and what fails is in the answer."""
    live = opened(tmp_path, packages.gathering(4), [Input(name="index", datatype="INT64")])
    result = live.predict(live.intake.from_lists({"index": (None, [1, 99])}))
    assert result.statuses() == ["ok", "failed"]
    assert "indices element out of data bounds" in result.problems[0].message
    assert capfd.readouterr().err == ""
