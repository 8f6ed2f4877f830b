"""LightGBM and XGBoost files: equal to the library's own prediction, or refused with the rows that differ."""

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost

from tidemill.errors import PackageError
from tidemill.packaging import PackageOptions, package_model
from tidemill.prediction.live import Live

NAMES = [f"c{j}" for j in range(5)]
Data = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def data() -> Data:
    """1,000 FP32 rows with missing cells, and a number that depends on two of the columns."""
    random = np.random.default_rng(5)
    x = random.standard_normal((1000, 5)).astype(np.float32)
    x[random.random(x.shape) < 0.05] = np.nan
    return x, np.nan_to_num(x[:, 0]) * 2 + np.nan_to_num(x[:, 1])


@pytest.fixture
def like(tmp_path: Path, data: Data) -> str:
    """The columns in another order than the model's, with one more."""
    x, _ = data
    order = [3, 1, 4, 0, 2]
    pq.write_table(pa.table({NAMES[j]: x[:, j] for j in order} | {"y": x[:, 0]}), tmp_path / "t.parquet")
    return str(tmp_path / "t.parquet")


def target(objective: str, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if "multi" in objective:
        return np.digitize(value, [-1, 1])
    if objective.startswith(("binary", "rank", "lambda", "cross")):
        return (value > 0).astype(int)
    if objective.startswith(("poisson", "count", "reg:gamma", "reg:tweedie")):
        return np.exp(value / 3)
    return value


def train_lightgbm(objective: str, data: Data, path: Path, **more: Any) -> lightgbm.Booster:
    x, value = data
    classes = {"num_class": 3} if objective.startswith("multi") else {}
    group = [100] * 10 if objective.startswith("lambda") else None
    rows = lightgbm.Dataset(x, target(objective, value), group=group, feature_name=NAMES)
    params = {"objective": objective, "verbose": -1, "num_threads": 1, **classes, **more}
    booster = lightgbm.train(params, rows, 15)
    booster.save_model(path)
    return booster


def train_xgboost(objective: str, data: Data, path: Path) -> xgboost.Booster:
    x, value = data
    rows = xgboost.DMatrix(x, target(objective, value), feature_names=NAMES)
    if objective.startswith("rank"):
        rows.set_group([100] * 10)
    classes = {"num_class": 3} if objective.startswith("multi") else {}
    booster = xgboost.train({"objective": objective, "nthread": 1, **classes}, rows, 15)
    booster.save_model(path)
    return booster


def scores(package: Any, like: str) -> np.ndarray[Any, Any]:
    live = Live.open(package)
    result = live.predict(live.intake.from_arrow(pq.read_table(like).combine_chunks().to_batches()[0]))
    assert not result.problems
    outputs = result.outputs.columns
    found = outputs["probabilities"] if "probabilities" in outputs else outputs["value"]
    return found[:, 1] if found.ndim == 2 and found.shape[1] == 2 else found


@pytest.mark.parametrize(
    ("objective", "task", "more"),
    [
        ("binary", "classification", {}),
        ("multiclass", "classification", {}),
        ("regression", "regression", {}),
        ("poisson", "regression", {}),
        ("quantile", "regression", {}),
        ("lambdarank", "ranking", {}),
        ("binary", "classification", {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}),
    ],
)
def test_lightgbm(objective: str, task: str, more: dict[str, Any], data: Data, like: str, tmp_path: Path) -> None:
    booster = train_lightgbm(objective, data, tmp_path / "m.txt", **more)
    report = package_model(tmp_path / "m.txt", tmp_path / "out", PackageOptions(like=like))
    manifest = report.package.manifest
    assert (manifest.task, manifest.runtime.name) == (task, "onnx")
    assert [c.name for c in manifest.inputs[0].columns] == NAMES
    assert all(c.nullable for c in manifest.inputs[0].columns)
    np.testing.assert_allclose(scores(report.package, like), booster.predict(data[0]), rtol=1e-5, atol=1e-5)
    # Without a table the rows are made from the trees' own splits, where rounding would show.
    report = package_model(tmp_path / "m.txt", tmp_path / "bare")
    assert "1000 made-up rows" in report.notes[0]
    assert report.package.manifest.samples is None


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize(
    ("objective", "task"),
    [
        ("binary:logistic", "classification"),
        ("multi:softprob", "classification"),
        ("reg:squarederror", "regression"),
        ("count:poisson", "regression"),
        ("rank:pairwise", "ranking"),
    ],
)
def test_xgboost(objective: str, task: str, suffix: str, data: Data, like: str, tmp_path: Path) -> None:
    source = tmp_path / f"m.{suffix}"
    booster = train_xgboost(objective, data, source)
    report = package_model(source, tmp_path / "out", PackageOptions(like=like))
    assert report.package.manifest.task == task
    want = booster.predict(xgboost.DMatrix(data[0], feature_names=NAMES))
    np.testing.assert_allclose(scores(report.package, like), want, rtol=1e-5, atol=1e-5)


def test_xgboost_softmax_gives_probabilities_too(data: Data, like: str, tmp_path: Path) -> None:
    booster = train_xgboost("multi:softmax", data, tmp_path / "m.json")
    package = package_model(tmp_path / "m.json", tmp_path / "out", PackageOptions(like=like)).package
    want = booster.predict(xgboost.DMatrix(data[0], feature_names=NAMES))
    found = scores(package, like)
    assert (found.argmax(axis=1) == want).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("objective", ["multiclassova", "cross_entropy"])
def test_lightgbm_that_does_not_convert_is_refused(objective: str, data: Data, like: str, tmp_path: Path) -> None:
    train_lightgbm(objective, data, tmp_path / "m.txt")
    with pytest.raises(PackageError) as caught:
        package_model(tmp_path / "m.txt", tmp_path / "out", PackageOptions(like=like))
    told = str(caught.value)
    assert ("rows disagree" in told and "the original says" in told) or "onnxmltools cannot convert it" in told
    assert not (tmp_path / "out").exists()


def test_xgboost_that_does_not_agree_is_refused_with_rows_and_numbers(data: Data, like: str, tmp_path: Path) -> None:
    train_xgboost("binary:hinge", data, tmp_path / "m.json")
    with pytest.raises(PackageError, match=r"1000 of 1000 rows disagree .*; row 0: value is .*, the original says"):
        package_model(tmp_path / "m.json", tmp_path / "out", PackageOptions(like=like))


def test_columns_are_counted(data: Data, tmp_path: Path) -> None:
    x, value = data
    lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, value), 2).save_model(tmp_path / "m.txt")
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), tmp_path / "t.parquet")
    with pytest.raises(PackageError, match=r"the model takes 5 columns, but 2 are given \(a, b\); leave exactly those"):
        package_model(tmp_path / "m.txt", tmp_path / "out", PackageOptions(like=str(tmp_path / "t.parquet")))


def test_categories_of_pandas_are_refused(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"c": pd.Categorical(["u", "v"] * 50), "x": np.arange(100.0)})
    rows = lightgbm.Dataset(frame, np.arange(100.0))
    lightgbm.train({"verbose": -1, "num_threads": 1}, rows, 2).save_model(tmp_path / "m.txt")
    with pytest.raises(PackageError, match="trained on pandas categories"):
        package_model(tmp_path / "m.txt", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "kind", "told"),
    [
        ("m.txt", b"tree\nversion=v4\nnonsense", None, "m.txt: LightGBM cannot load it"),
        ("m.json", b'{"learner": 1}', None, "m.json: XGBoost cannot load it"),
        ("m.ubj", b"\x00\x01", None, "m.ubj: XGBoost cannot load it"),
        ("m.skops", b"no archive", None, "m.skops: skops cannot load it"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes, kind: None, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PackageError, match=told):
        package_model(tmp_path / name, tmp_path / "out")
