"""The LightGBM text of an ONNX ensemble: LightGBM itself and the compiled runtime answer what ONNX Runtime does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
import xgboost
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor

from tests.optimise.support import ask
from tests.packages import make
from tidemill.errors import PackageError
from tidemill.model.signature import Input, Output
from tidemill.optimise.compiled import lightgbm_text
from tidemill.optimise.graph import simplified
from tidemill.optimise.trees import prune_trees
from tidemill.prediction.live import Live


def boosted(x: np.ndarray, y: np.ndarray, objective: str, **more: Any) -> onnx.ModelProto:
    parameters = {"objective": objective, "num_leaves": 7, "verbose": -1, "num_threads": 1, **more}
    booster = lightgbm.train(parameters, lightgbm.Dataset(x, y), 10)
    return convert_lightgbm(booster, initial_types=[("x", FloatTensorType([None, x.shape[1]]))], zipmap=False)


def gradient(x: np.ndarray, y: np.ndarray, model: Any) -> onnx.ModelProto:
    return convert_xgboost(model.fit(x, y), initial_types=[("x", FloatTensorType([None, x.shape[1]]))])


def sklearn(x: np.ndarray, y: np.ndarray, model: Any) -> onnx.ModelProto:
    from skl2onnx import to_onnx

    return to_onnx(model.fit(x, y), x[:1], options={"zipmap": False} if hasattr(model, "classes_") else None)


XGB = {"n_estimators": 8, "max_depth": 3, "n_jobs": 1}
CASES = {
    "lightgbm binary": (load_breast_cancer, lambda x, y: boosted(x, y, "binary")),
    "lightgbm multiclass": (load_wine, lambda x, y: boosted(x, y, "multiclass", num_class=3)),
    "lightgbm regression": (load_diabetes, lambda x, y: boosted(x, y, "regression")),
    "xgboost binary": (load_breast_cancer, lambda x, y: gradient(x, y, xgboost.XGBClassifier(**XGB))),
    "xgboost multiclass": (load_wine, lambda x, y: gradient(x, y, xgboost.XGBClassifier(**XGB))),
    "xgboost regression": (load_diabetes, lambda x, y: gradient(x, y, xgboost.XGBRegressor(**XGB))),
    "boosting": (load_diabetes, lambda x, y: sklearn(x, y, GradientBoostingRegressor(n_estimators=8, random_state=0))),
    "forest": (load_diabetes, lambda x, y: sklearn(x, y, RandomForestRegressor(8, max_depth=4, random_state=0))),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[onnx.ModelProto, np.ndarray]:
    """A graph, and rows: real ones, some with missing cells, and some on the very thresholds."""
    load, make_model = CASES[request.param]
    x, y = load(return_X_y=True)
    x = np.round(x.astype(np.float32) * 4) / 4 if load is not load_diabetes else x.astype(np.float32)
    x[::5, 0] = np.nan if "lightgbm" in request.param or "xgboost" in request.param else 0
    source = tmp_path / "source.onnx"
    onnx.save(make_model(x, y), source)
    model = simplified(source)
    rows = np.concatenate([x, _around_thresholds(model, x)])
    return model, rows


def _around_thresholds(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    node = next(n for n in model.graph.node if n.op_type.startswith("TreeEnsemble"))
    given = {a.name: a for a in node.attribute}
    features, values = list(given["nodes_featureids"].ints), np.array(given["nodes_values"].floats, np.float32)
    rows = np.repeat(x[1:2], 3 * len(values), axis=0)
    for i, (feature, value) in enumerate(zip(features, values, strict=True)):
        beside = [np.nextafter(value, np.float32(-np.inf)), value, np.nextafter(value, np.float32(np.inf))]
        rows[3 * i : 3 * i + 3, feature] = beside
    return rows


def test_lightgbm_reads_the_text_and_agrees(case: tuple[onnx.ModelProto, np.ndarray]) -> None:
    model, rows = case
    found = lightgbm.Booster(model_str=lightgbm_text(model)).predict(rows.astype(np.float64), num_threads=1)
    expected = ask(model, {model.graph.input[0].name: rows})[-1 if len(model.graph.output) == 1 else 1]
    if expected.ndim == 2 and expected.shape[1] == 2:
        expected = expected[:, 1]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=2e-5, atol=2e-6)


def test_compiled_trees_agree_when_pruned_too(case: tuple[onnx.ModelProto, np.ndarray], tmp_path: Path) -> None:
    model, rows = case
    name = model.graph.input[0].name
    pruned, _ = prune_trees(model, {name: rows}, 0.3)
    outputs = []
    found = ask(pruned, {name: rows})
    for info, array in zip(pruned.graph.output, found, strict=True):
        kind = "INT64" if array.dtype == np.int64 else "FP32"
        shape = (-1, *array.shape[1:]) if array.ndim == 1 or array.shape[1] > 1 else (-1,)
        outputs.append(Output(name=info.name, datatype=kind, shape=shape))
    inputs = [Input(name=name, datatype="FP32", shape=(-1, rows.shape[1]), nullable=True)]
    live = Live.open(make(tmp_path / "p", "lleaves", lightgbm_text(pruned), inputs, outputs))
    result = live.predict(live.intake.from_arrays({name: rows}))
    assert not result.problems
    for info, expected in zip(pruned.graph.output, found, strict=True):
        given = result.outputs[info.name]
        if expected.dtype == np.int64:
            assert np.array_equal(given, expected)
        else:
            np.testing.assert_allclose(given.reshape(expected.shape), expected, rtol=2e-5, atol=2e-6)


def test_what_the_text_cannot_tell_is_refused() -> None:
    x, y = load_wine(return_X_y=True)
    forest = sklearn(x.astype(np.float32), y, RandomForestClassifier(4, max_depth=3, random_state=0))
    with pytest.raises(PackageError, match="its 3 classes come of 3 scores by NONE"):
        lightgbm_text(forest)
    network = onnx.helper.make_model(onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [], []))
    with pytest.raises(PackageError, match="not one tree ensemble alone: it has Relu"):
        lightgbm_text(network)
    model = boosted(x, y == 1, "binary")
    modes = next(a for n in model.graph.node for a in n.attribute if a.name == "nodes_modes")
    modes.strings[0] = b"BRANCH_EQ"
    with pytest.raises(PackageError, match="its trees compare by BRANCH_EQ"):
        lightgbm_text(model)
