"""ONNX files: what is read from the graph, and what is refused with a word on what to do."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from tests import models
from tests.packaging.graphs import doubler, save, value
from tidemill.errors import ConfigError, PackageError, TidemillError
from tidemill.model.package import open_package
from tidemill.model.signature import Output
from tidemill.packaging import PackageOptions, package_model
from tidemill.prediction.live import Live


def test_trees_read_their_labels_and_columns_from_graph_and_table(models_dir: Path) -> None:
    manifest = models.onnx_trees(models_dir).manifest
    assert manifest.task == "classification"
    (one,) = manifest.inputs
    assert (one.name, one.datatype, one.shape) == ("X", "FP32", (-1, 30))
    assert [c.name for c in one.columns][:2] == ["mean_radius", "mean_texture"]
    assert manifest.outputs == (
        Output(name="label", datatype="INT64"),
        Output(name="probabilities", datatype="FP32", shape=(-1, 2), labels=("0", "1")),
    )
    assert manifest.origin is not None
    assert manifest.origin.kind == "onnx"
    assert manifest.origin.sha256 == manifest.files["model.onnx"]


@pytest.mark.parametrize(
    ("kind", "datatype"),
    [
        (TensorProto.FLOAT, "FP32"),
        (TensorProto.DOUBLE, "FP64"),
        (TensorProto.INT64, "INT64"),
        (TensorProto.INT32, "INT32"),
        (TensorProto.FLOAT16, "FP16"),
    ],
)
def test_datatypes(tmp_path: Path, kind: int, datatype: str) -> None:
    package = package_model(doubler(tmp_path / "m.onnx", ["n", 3], kind), tmp_path / "out").package
    assert [i.datatype for i in package.manifest.inputs] == [datatype]
    assert [o.datatype for o in package.manifest.outputs] == [datatype]
    live = Live.open(package)
    x = np.arange(6).reshape(2, 3).astype(package.manifest.inputs[0].type.dtype)
    assert live.predict(live.intake.from_arrays({"x": x})).outputs["y"].tolist() == (x + x).tolist()


def test_text_goes_through(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    text = TensorProto.STRING
    source = save(tmp_path / "m.onnx", [node], [value("x", ["n"], text)], [value("y", ["n"], text)])
    live = Live.open(package_model(source, tmp_path / "out").package)
    x = np.array(["Zürich", ""], object)
    assert live.predict(live.intake.from_arrays({"x": x})).outputs["y"].tolist() == ["Zürich", ""]


@pytest.mark.parametrize(
    ("shape", "carried", "rows"),
    [
        (["n", 4], (-1, 4), None),
        ([None, "t", 8], (-1, -1, 8), None),
        (["n", 1], (-1,), None),
        (["n"], (-1,), None),
        ([1, 4], (-1, 4), 1),
        ([8, 4], (-1, 4), 8),
    ],
)
def test_shapes(tmp_path: Path, shape: list[int | str | None], carried: tuple[int, ...], rows: int | None) -> None:
    package = package_model(doubler(tmp_path / "m.onnx", shape), tmp_path / "out").package
    assert package.manifest.inputs[0].shape == carried
    assert package.manifest.runtime.max_call_rows == rows
    live = Live.open(package)
    x = np.ones((11, *(3 if d < 0 else d for d in carried[1:])), np.float32)
    result = live.predict(live.intake.from_arrays({"x": x}))
    assert not result.problems
    assert (result.outputs["y"].reshape(x.shape) == 2).all()


def test_an_initialiser_that_is_also_an_input_is_no_input(tmp_path: Path) -> None:
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    weights = {"w": np.full(3, 2, np.float32)}
    source = save(tmp_path / "m.onnx", [node], [value("x", ["n", 3]), value("w", [3])], [value("y", ["n", 3])], weights)
    assert [i.name for i in package_model(source, tmp_path / "out").package.manifest.inputs] == ["x"]


def test_external_data_is_taken_along_and_sealed(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = {"w": np.arange(4096, dtype=np.float32).reshape(64, 64)}
    source = save(
        tmp_path / "m.onnx",
        [node],
        [value("x", ["n", 64])],
        [value("y", ["n", 64])],
        weights,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    package = package_model(source, tmp_path / "out").package
    assert sorted(package.manifest.files) == ["model.onnx", "weights.bin"]
    (tmp_path / "weights.bin").unlink()
    live = Live.open(open_package(package.directory))
    x = np.eye(64, dtype=np.float32)
    assert (live.predict(live.intake.from_arrays({"x": x})).outputs["y"] == weights["w"]).all()
    with pytest.raises(PackageError, match=r"m\.onnx: its external data 'weights\.bin' is missing beside it"):
        package_model(source, tmp_path / "again")


def test_external_data_elsewhere_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = save(
        tmp_path / "in" / "m.onnx",
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        [value("x", ["n", 64])],
        [value("y", ["n", 64])],
        {"w": np.ones(64, np.float32)},
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    # The same number of bytes, so that the protocol buffer stays well formed.
    source.write_bytes(source.read_bytes().replace(b"weights.bin", b"../etc/pass"))
    with pytest.raises(PackageError, match=r"its external data '\.\./etc/pass' lies outside the model's directory"):
        package_model(source, tmp_path / "out")


def test_dynamic_quantisation_makes_rows_depend_on_each_other(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    source = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 3])], [value("y", ["n", 3])])
    report = package_model(source, tmp_path / "out")
    assert report.package.manifest.rows_independent is False
    assert any("it quantises dynamically" in n for n in report.notes)


def test_rows_that_depend_on_each_other_are_found_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    axes = {"axes": np.array([0], np.int64)}
    source = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 3])], [value("y", ["n", 3])], axes)
    report = package_model(source, tmp_path / "out")
    assert report.package.manifest.rows_independent is False
    assert any("the call size changes answers: y differs by" in n for n in report.notes)


def refused(source: Path, out: Path, options: PackageOptions | None = None) -> str:
    with pytest.raises(TidemillError) as caught:
        package_model(source, out, options)
    assert not out.exists()
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".tidemill")]
    return str(caught.value)


def test_a_zipmap_is_refused_with_advice(tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    model = LogisticRegression().fit(x, x[:, 0] > 0)
    (tmp_path / "m.onnx").write_bytes(to_onnx(model, x[:1]).SerializeToString())
    told = refused(tmp_path / "m.onnx", tmp_path / "out")
    assert "output_probability" in told
    assert "options={'zipmap': False}" in told


def test_a_wrong_number_of_columns_is_refused(tmp_path: Path) -> None:
    source = doubler(tmp_path / "m.onnx", ["n", 3])
    pq.write_table(pa.table({n: [1.0] for n in "abcd"}), tmp_path / "t.parquet")
    told = refused(source, tmp_path / "out", PackageOptions(like=str(tmp_path / "t.parquet")))
    assert "input 'x' takes 3 columns, but 4 are named (a, b, c, d)" in told
    told = refused(source, tmp_path / "out", PackageOptions(columns=("a", "b")))
    assert "input 'x' takes 3 columns, but 2 are named (a, b)" in told
    one = doubler(tmp_path / "one.onnx", ["n"])
    told = refused(one, tmp_path / "out", PackageOptions(columns=("a", "b")))
    assert "--columns: needs one two-dimensional input to fill; the model has x ['n']" in told


def test_columns_fill_the_one_matrix_beside_other_inputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["y"]),
    ]
    inputs = [value("x", ["n", 2]), value("scale", ["n", 1])]
    source = save(tmp_path / "m.onnx", nodes, inputs, [value("y", ["n", 2])])
    pq.write_table(pa.table({"a": [1.0], "scale": [2.0], "b": [3.0]}), tmp_path / "t.parquet")
    package = package_model(source, tmp_path / "out", PackageOptions(like=str(tmp_path / "t.parquet"))).package
    x, scale = package.manifest.inputs
    assert ([c.name for c in x.columns], scale.shape) == (["a", "b"], (-1,))
    live = Live.open(package)
    rows = live.intake.from_arrow(pa.RecordBatch.from_pydict({"scale": [10.0], "b": [2.0], "a": [1.0]}))
    assert live.predict(rows).outputs["y"].tolist() == [[10, 20]]


def test_a_model_that_made_up_rows_cannot_try_says_so(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    shape = {"shape": np.array([-1, 5], np.int64)}
    source = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 3])], [value("y", ["n", 5])], shape)
    report = package_model(source, tmp_path / "out")
    assert any(n.startswith("made-up rows have no answer: the model failed: ") for n in report.notes)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not an ONNX model"),
        (b"hello world", "not an ONNX model"),
        (b"\x08\x0a", "not an ONNX model"),
        (b"\x3a\xff\xff\xff\x7f", "not an ONNX model"),
    ],
)
def test_what_is_no_model_is_said_so(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert told in refused(tmp_path / "m.onnx", tmp_path / "out")


@pytest.mark.parametrize("newer", [{"ir": 99}, {"opset": 99}])
def test_a_model_newer_than_the_runtime_is_refused(tmp_path: Path, newer: dict[str, int]) -> None:
    told = refused(doubler(tmp_path / "m.onnx", ["n", 3], **newer), tmp_path / "out")
    assert "m.onnx: ONNX Runtime cannot load it" in told


def test_inputs_without_common_rows_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    source = save(tmp_path / "m.onnx", [node], [value("a", ["n", 3]), value("b", [1, 3])], [value("y", ["n", 3])])
    assert "the inputs do not share their rows (the first axis is fixed for b to 1)" in refused(
        source, tmp_path / "out"
    )


def test_an_output_without_rows_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    source = save(tmp_path / "m.onnx", [node], [value("x", ["n", 3])], [value("y", [])])
    assert "output 'y' has no rows" in refused(source, tmp_path / "out")


def test_missing_integers_need_a_fill(tmp_path: Path) -> None:
    source = doubler(tmp_path / "m.onnx", ["n"], TensorProto.INT64)
    pq.write_table(pa.table({"x": [1, None, 3]}), tmp_path / "t.parquet")
    like = str(tmp_path / "t.parquet")
    told = refused(source, tmp_path / "out", PackageOptions(like=like))
    assert told.startswith("1 of 3 cells of x are missing, and the model's INT64 has no value for that")
    assert "--fill x=VALUE" in told
    package = package_model(source, tmp_path / "out", PackageOptions(like=like, fill={"x": -1})).package
    live = Live.open(package)
    result = live.predict(live.intake.from_arrow(pa.RecordBatch.from_pydict({"x": [1, None]})))
    assert result.outputs["y"].tolist() == [2, -2]


def test_options_are_checked_together_before_anything_is_written(tmp_path: Path) -> None:
    source = doubler(tmp_path / "m.onnx", ["n", 2])
    told = refused(source, tmp_path / "out", PackageOptions(nullable=("z",), bounds={"q": (0, 1)}, columns=("a", "b")))
    assert "--nullable z: the model has no such input or column; it has a, b, x" in told
    assert "--bound q: " in told
    with pytest.raises(ConfigError, match="name"):
        package_model(source, tmp_path / "out", PackageOptions(name="no spaces please"))
