"""The few metrics are scikit-learn's, the right output is read, and what does not fit is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as reference

from tidemill.errors import ConfigError, InputError
from tidemill.model.manifest import Manifest, RuntimeSpec
from tidemill.model.signature import Input, Output
from tidemill.optimise.metrics import metric_for

RNG = np.random.default_rng(0)
LABEL = Output(name="label", datatype="INT64")
SCORES = Output(name="probabilities", datatype="FP32", shape=(-1, 3))
VALUE = Output(name="value", datatype="FP32")


def manifest(*outputs: Output, task: Any = "classification") -> Manifest:
    return Manifest(
        format=1,
        name="m",
        version="1",
        task=task,
        runtime=RuntimeSpec(name="onnx", artifact="model.onnx"),
        inputs=(Input(name="x", datatype="FP32"),),
        outputs=outputs,
    )


def probabilities(n: int, classes: int) -> np.ndarray:
    """Of sixty-fourths, so that some are equal and each row adds up to one exactly."""
    return (RNG.multinomial(64, RNG.dirichlet(np.ones(classes), n)) / 64).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_as_scikit_learn_judges_them(classes: int) -> None:
    p, y = probabilities(500, classes), RNG.integers(0, classes, 500)
    given = {"probabilities": p, "label": p.argmax(axis=1)}
    package = manifest(LABEL, Output(name="probabilities", datatype="FP32", shape=(-1, classes)))

    def score(name: Any) -> float:
        return metric_for(name, package, pa.array(y), "y", None).score(given)

    assert score("accuracy") == pytest.approx(reference.accuracy_score(y, p.argmax(axis=1)))
    whole = p.astype(np.float64)
    more = {"multi_class": "ovr"} if classes > 2 else {}
    area = reference.roc_auc_score(y, whole if classes > 2 else whole[:, 1], **more)
    assert score("roc_auc") == pytest.approx(area)
    clipped = np.clip(whole, np.finfo(np.float32).eps, 1)
    expected = reference.log_loss(y, clipped / clipped.sum(axis=1, keepdims=True), labels=range(classes))
    assert score("log_loss") == pytest.approx(expected, rel=1e-6)


def test_values_as_scikit_learn_judges_them() -> None:
    y, found = RNG.normal(size=300), RNG.normal(size=300).astype(np.float32)
    package = manifest(VALUE, task="regression")
    expected = {
        "rmse": reference.mean_squared_error(y, found) ** 0.5,
        "mae": reference.mean_absolute_error(y, found),
        "r2": reference.r2_score(y, found),
    }
    for name, value in expected.items():
        metric = metric_for(name, package, pa.array(y), "y", None)  # type: ignore[arg-type]
        assert metric.score({"value": found}) == pytest.approx(value)
        assert metric.score({"value": found[:, None]}) == pytest.approx(value)


def test_worse_is_a_drop_whichever_way_the_metric_goes() -> None:
    package = manifest(LABEL, SCORES)
    y = pa.array([0, 1, 2])
    assert metric_for("accuracy", package, y, "y", None).drop(0.9, 0.8) == pytest.approx(0.1)
    assert metric_for("log_loss", package, y, "y", None).drop(0.3, 0.5) == pytest.approx(0.2)
    assert metric_for("log_loss", package, y, "y", None).drop(0.3, 0.1) == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("labels", "truth"),
    [
        (("no", "yes"), pa.array(["no", "yes", "yes"])),
        (("0", "1"), pa.array([False, True, True])),
        (("False", "True"), pa.array([False, True, True])),
        (("0", "1"), pa.array([0.0, 1.0, 1.0])),
        ((), pa.array([0, 1, 1], pa.int8())),
    ],
)
def test_the_truth_is_told_as_people_tell_it(labels: tuple[str, ...], truth: pa.Array) -> None:
    scores = Output(name="probabilities", datatype="FP32", shape=(-1, 2), labels=labels)
    given = {"probabilities": np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)}
    assert metric_for("accuracy", manifest(scores), truth, "y", None).score(given) == pytest.approx(2 / 3)
    assert metric_for("roc_auc", manifest(scores), truth, "y", None).score(given) == 1.0


def test_one_score_is_that_of_the_second_class() -> None:
    score = Output(name="score", datatype="FP32")
    truth = pa.array([True, False, True])
    given = {"score": np.array([0.9, 0.2, 0.4], np.float32)}
    assert metric_for("accuracy", manifest(score), truth, "y", None).score(given) == pytest.approx(2 / 3)


def test_answers_that_are_no_numbers_score_no_number() -> None:
    given = {"probabilities": np.full((3, 3), np.nan, np.float32), "value": np.full(3, np.nan, np.float32)}
    for name, package in (("roc_auc", manifest(SCORES)), ("rmse", manifest(VALUE, task="regression"))):
        assert np.isnan(metric_for(name, package, pa.array([0, 1, 2]), "y", None).score(given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "outputs", "task", "output", "message"),
    [
        ("rmse", (LABEL, SCORES), "classification", None, "--metric rmse is of one number a row, which m"),
        ("accuracy", (VALUE,), "regression", None, "--metric accuracy is of classes, which m .regression. does not"),
        ("log_loss", (LABEL,), "classification", None, "--metric log_loss is of classes, which m"),
        ("mae", (VALUE, VALUE), "regression", None, "--output: say which of value, value mae is of"),
        ("mae", (VALUE,), "regression", "worth", "--output worth: no such output; it has value"),
        ("roc_auc", (SCORES, SCORES), "other", None, "--output: say which of probabilities, probabilities roc_auc is"),
    ],
)
def test_a_metric_that_does_not_fit(name: Any, outputs: Any, task: str, output: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric_for(name, manifest(*outputs, task=task), pa.array([0, 1, 2]), "y", output)


@pytest.mark.parametrize(
    ("name", "truth", "message"),
    [
        ("log_loss", pa.array([0, 7, 1]), "y holds '7', and the model's classes are '0', '1', '2'"),
        ("accuracy", pa.array(["a", "b", "a"]), "y holds 'a', 'b', and the model's classes are '0', '1', '2'"),
        ("roc_auc", pa.array([1, 1, 1]), "y holds one class only .1., of which roc_auc tells nothing"),
    ],
)
def test_a_truth_that_does_not_fit_classes(name: Any, truth: pa.Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric_for(name, manifest(SCORES), truth, "y", None)


def test_a_truth_that_does_not_fit_values() -> None:
    package = manifest(VALUE, task="regression")
    with pytest.raises(InputError, match="y is string, and a value's truth is a number"):
        metric_for("rmse", package, pa.array(["a", "b"]), "y", None)
    with pytest.raises(InputError, match="y holds infinities, by which nothing can be judged"):
        metric_for("rmse", package, pa.array([1.0, float("inf")]), "y", None)
    with pytest.raises(InputError, match=r"y holds one value only .2., of which r2 tells nothing"):
        metric_for("r2", package, pa.array([2, 2]), "y", None)


def test_labels_of_which_none_is_ever_the_truth() -> None:
    metric = metric_for("accuracy", manifest(LABEL), pa.array(["no", "yes"]), "y", None)
    with pytest.raises(InputError, match="y holds no, yes, and label says 0, 1: none of them"):
        metric.score({"label": np.array([0, 1])})
