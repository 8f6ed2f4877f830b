"""The trees that add least are gone, and what is left is what the training library says of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor

from tests.optimise.support import ask
from tidemill.optimise.ensemble import Ensemble, ensemble_nodes
from tidemill.optimise.trees import prune_trees

RATIO = 0.4


def trained(objective: str, x: np.ndarray, y: np.ndarray, **more: Any) -> Any:
    import lightgbm

    parameters = {"objective": objective, "num_leaves": 7, "verbose": -1, "num_threads": 1, **more}
    return lightgbm.train(parameters, lightgbm.Dataset(x, y), 20)


def converted(booster: Any, width: int) -> onnx.ModelProto:
    return convert_lightgbm(booster, initial_types=[("x", FloatTensorType([None, width]))], zipmap=False)


def of_each_tree(booster: Any, x: np.ndarray, per_row: int) -> np.ndarray:
    """What each tree gives to each score, by LightGBM itself: (trees, rows, scores)."""
    rounds = booster.num_trees() // per_row
    found = np.zeros((rounds * per_row, len(x), per_row))
    for i in range(rounds):
        given = booster.predict(x, raw_score=True, start_iteration=i, num_iteration=1).reshape(len(x), per_row)
        for k in range(per_row):
            found[i * per_row + k, :, k] = given[:, k]
    return found


def pruned_by_hand(each: np.ndarray) -> np.ndarray:
    spread = np.sqrt(each.var(axis=1).sum(axis=1))
    out = spread.argsort(kind="stable")[: int(len(each) * RATIO)]
    return np.delete(each, out, axis=0).sum(axis=0) + each[out].mean(axis=1).sum(axis=0)


@pytest.mark.parametrize(("objective", "load"), [("binary", load_breast_cancer), ("multiclass", load_wine)])
def test_classes_are_those_of_the_trees_kept_and_the_mean_of_the_others(objective: str, load: Any) -> None:
    x, y = load(return_X_y=True)
    # Thresholds then are the same in FP32.
    x = np.round(x * 4) / 4
    classes = len(np.unique(y))
    booster = trained(objective, x, y, **({"num_class": classes} if classes > 2 else {}))
    model, feeds = converted(booster, x.shape[1]), {"x": x.astype(np.float32)}
    pruned, cuts = prune_trees(model, feeds, RATIO)
    trees = booster.num_trees()
    assert [(c.before, c.after) for c in cuts] == [(trees, trees - int(trees * RATIO))]

    raw = pruned_by_hand(of_each_tree(booster, x, 1 if classes == 2 else classes))
    if classes == 2:
        positive = 1 / (1 + np.exp(-raw[:, 0]))
        expected = np.column_stack([1 - positive, positive])
    else:
        powers = np.exp(raw - raw.max(axis=1, keepdims=True))
        expected = powers / powers.sum(axis=1, keepdims=True)
    label, probabilities = ask(pruned, feeds)[:2]
    np.testing.assert_allclose(probabilities, expected, atol=2e-5)
    np.testing.assert_array_equal(label, expected.argmax(axis=1))


def test_values_are_those_of_the_trees_kept_and_the_mean_of_the_others() -> None:
    x, y = load_diabetes(return_X_y=True)
    x = np.round(x * 256) / 256
    booster = trained("regression", x, y)
    model, feeds = converted(booster, x.shape[1]), {"x": x.astype(np.float32)}
    pruned, _ = prune_trees(model, feeds, RATIO)
    expected = pruned_by_hand(of_each_tree(booster, x, 1))
    np.testing.assert_allclose(ask(pruned, feeds)[0], expected, rtol=1e-5)
    assert len(pruned.SerializeToString()) < 0.75 * len(model.SerializeToString())


def test_base_values_that_are_there_are_kept() -> None:
    import xgboost

    x, y = load_breast_cancer(return_X_y=True)
    x = x.astype(np.float32)
    model = xgboost.XGBClassifier(n_estimators=10, max_depth=3, base_score=0.9, n_jobs=1).fit(x, y)
    whole = convert_xgboost(model, initial_types=[("x", FloatTensorType([None, x.shape[1]]))])
    assert len(Ensemble(ensemble_nodes(whole)[0]).base)
    pruned, _ = prune_trees(whole, {"x": x}, 0.1)
    # Of ten trees the last adds little; a base value that was lost would move every row by far more.
    assert np.abs(ask(pruned, {"x": x})[1] - ask(whole, {"x": x})[1]).max() < 0.15
    assert np.abs(ask(pruned, {"x": x})[1] - ask(whole, {"x": x})[1]).mean() < 0.02


def test_a_mean_of_trees_stays_a_mean() -> None:
    from skl2onnx import to_onnx

    x, y = load_diabetes(return_X_y=True)
    x = x.astype(np.float32)
    forest = RandomForestRegressor(20, max_depth=4, random_state=0).fit(x, y)
    model = to_onnx(forest, x[:1])
    pruned, _ = prune_trees(model, {"X": x}, RATIO)
    each = np.array([tree.predict(x) for tree in forest.estimators_])[:, :, None] / 20
    np.testing.assert_allclose(ask(pruned, {"X": x})[0], pruned_by_hand(each), rtol=1e-5)


@pytest.mark.parametrize("forest", [RandomForestClassifier, ExtraTreesClassifier])
@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_probabilities_of_a_forest_still_add_up_to_one(forest: Any, load: Any) -> None:
    from skl2onnx import to_onnx

    x, y = load(return_X_y=True)
    x = x.astype(np.float32)
    trained_forest = forest(20, max_depth=3, random_state=0).fit(x, y)
    model = to_onnx(trained_forest, x[:1], options={"zipmap": False})
    pruned, _ = prune_trees(model, {"X": x}, RATIO)
    probabilities = ask(pruned, {"X": x})[1]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    each = np.array([tree.predict_proba(x) for tree in trained_forest.estimators_]) / 20
    np.testing.assert_allclose(probabilities, pruned_by_hand(each), atol=1e-5)


def test_missing_cells_go_where_they_went() -> None:
    x, y = load_wine(return_X_y=True)
    x = np.round(x * 4) / 4
    x[::3, 6], x[1::4, 0] = np.nan, np.nan
    booster = trained("regression", x, y.astype(float))
    model, feeds = converted(booster, x.shape[1]), {"x": x.astype(np.float32)}
    pruned, _ = prune_trees(model, feeds, RATIO)
    np.testing.assert_allclose(ask(pruned, feeds)[0], pruned_by_hand(of_each_tree(booster, x, 1)), atol=1e-5)


def test_the_last_tree_is_never_taken() -> None:
    x, y = load_diabetes(return_X_y=True)
    model = converted(trained("regression", x, y), x.shape[1])
    pruned, cuts = prune_trees(model, {"x": x.astype(np.float32)}, 0.99)
    assert cuts[0].after == 1
    assert np.isfinite(ask(pruned, {"x": x.astype(np.float32)})[0]).all()
