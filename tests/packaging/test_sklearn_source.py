"""scikit-learn: converted where that agrees, run through skops where it does not, and nothing untrusted loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from tests import models
from tidemill.errors import PackageError
from tidemill.packaging import PackageOptions, package_model
from tidemill.packaging.agreement import ABSOLUTE
from tidemill.prediction.live import Live


@pytest.fixture(scope="module")
def numbers() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    x = random.standard_normal((600, 4))
    return x, np.digitize(x[:, 0] + x[:, 1], [-0.7, 0.7])


def save(estimator: Any, directory: Path) -> Path:
    return models.save_skops(estimator, directory / "model.skops")


def test_categories_and_missing_values_survive_the_conversion(models_dir: Path) -> None:
    """The Pipeline runs as ONNX and answers what scikit-learn does, on rows with missing text and numbers too."""
    import skops.io

    package = models.sklearn_pipeline(models_dir)
    manifest = package.manifest
    assert manifest.runtime.name == "onnx"
    by_name = {i.name: i for i in manifest.inputs}
    assert by_name["Home"].categories == ("ignore", "other", "owner", "parents", "priv", "rent")
    assert (by_name["Home"].nullable, by_name["Home"].fill) == (True, "")
    assert (by_name["Records"].nullable, by_name["Records"].fill) == (False, None)
    assert (by_name["Income"].datatype, by_name["Income"].nullable) == ("FP32", True)
    assert by_name["Age"].minimum is None
    assert [(o.name, o.datatype, o.labels) for o in manifest.outputs] == [
        ("label", "BYTES", ()),
        ("probabilities", "FP32", ("bad", "good")),
    ]
    table = pq.read_table(models.credit_table(models_dir)).drop(["Status"])
    missing = table.filter(pa.compute.is_null(table["Income"]))
    missing = pa.concat_tables([missing, table.filter(pa.compute.is_null(table["Home"]))]).combine_chunks()
    assert missing["Home"].null_count
    estimator = skops.io.load(models_dir / "pipeline.skops", trusted=list(models.TREES_TRUSTED))
    frame = missing.to_pandas()
    frame["Home"] = frame["Home"].where(frame["Home"].notna(), np.nan)
    frame["Job"] = frame["Job"].where(frame["Job"].notna(), np.nan)
    frame["Marital"] = frame["Marital"].where(frame["Marital"].notna(), np.nan)
    live = Live.open(package)
    result = live.predict(live.intake.from_arrow(missing.to_batches()[0]))
    assert not result.problems
    assert np.abs(result.outputs["probabilities"] - estimator.predict_proba(frame)).max() < ABSOLUTE
    assert result.outputs["label"].tolist() == estimator.predict(frame).tolist()


def test_what_disagrees_as_onnx_runs_through_skops(models_dir: Path) -> None:
    package = models.skops_pipeline(models_dir)
    manifest = package.manifest
    assert manifest.runtime.name == "sklearn"
    assert manifest.requirements[0].startswith("scikit-learn==")
    by_name = {i.name: i for i in manifest.inputs}
    assert (by_name["Age"].datatype, by_name["Income"].datatype) == ("INT64", "FP64")
    assert manifest.origin is not None
    first, second, third = manifest.origin.notes
    assert first.startswith("converted to ONNX with FP32 inputs: not used: ")
    assert "rows disagree with the original" in first
    assert second.startswith("converted to ONNX with FP64 inputs: not used: ")
    assert third.startswith("run through skops; agrees with the original on")


def test_a_boosted_tree_behind_a_scaler_is_caught(tmp_path: Path) -> None:
    """XGBoost rounds to FP32 what a scaler gave in FP64: rows beside a split fall on the other side in ONNX."""
    from xgboost import XGBClassifier

    random = np.random.default_rng(0)
    x = random.standard_normal((2000, 6))
    model = make_pipeline(StandardScaler(), XGBClassifier(n_estimators=20)).fit(x, x[:, 0] * 2 + x[:, 1] > 0)
    pq.write_table(pa.table({f"c{j}": x[:, j] for j in range(6)}), tmp_path / "t.parquet")
    trusted = ("xgboost.core.Booster", "xgboost.sklearn.XGBClassifier")
    options = PackageOptions(like=str(tmp_path / "t.parquet"), trusted=trusted)
    report = package_model(save(model, tmp_path), tmp_path / "out", options)
    assert report.package.manifest.runtime.name == "sklearn"
    assert report.agreement == {"label": 0.0, "probabilities": 0.0}
    live = Live.open(report.package)
    rows = pq.read_table(tmp_path / "t.parquet").to_batches()[0]
    found = live.predict(live.intake.from_arrow(rows)).outputs["probabilities"]
    assert (found == model.predict_proba(x)).all()


def test_untrusted_types_are_named_with_the_flag(models_dir: Path, tmp_path: Path) -> None:
    models.sklearn_pipeline(models_dir)
    with pytest.raises(PackageError) as caught:
        package_model(models_dir / "pipeline.skops", tmp_path / "out", PackageOptions(trusted=("numpy.dtype",)))
    assert "holds types that are not trusted: sklearn.tree._tree.Tree;" in str(caught.value)
    assert "--trusted sklearn.tree._tree.Tree" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ({"a": 1}, "model.skops: holds a dict, expected a fitted scikit-learn estimator or Pipeline"),
        (LinearRegression(), "model.skops: the LinearRegression is not fitted: fit it, then save it"),
        (make_pipeline(StandardScaler(), LinearRegression()), "model.skops: the Pipeline is not fitted"),
    ],
)
def test_what_is_no_fitted_estimator_is_told(saved: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(PackageError) as caught:
        package_model(save(saved, tmp_path), tmp_path / "out")
    assert told in str(caught.value)


def test_a_regressor_of_arrays_without_a_table(tmp_path: Path, numbers: Any) -> None:
    x, _ = numbers
    model = LinearRegression().fit(x, x @ [1, 2, 3, 4])
    report = package_model(save(model, tmp_path), tmp_path / "out")
    manifest = report.package.manifest
    assert (manifest.task, manifest.runtime.name, manifest.samples) == ("regression", "onnx", None)
    assert [(o.name, o.shape) for o in manifest.outputs] == [("value", (-1,))]
    assert "made-up rows (no --like table was given)" in report.notes[0]
    live = Live.open(report.package)
    found = live.predict(live.intake.from_arrays({"input": x.astype(np.float32)})).outputs["value"]
    np.testing.assert_allclose(found, model.predict(x), rtol=1e-5, atol=1e-5)


def test_columns_of_a_table_fill_a_model_fitted_on_arrays(tmp_path: Path, numbers: Any) -> None:
    x, y = numbers
    model = LogisticRegression().fit(x, y)
    table = {f"c{j}": x[:, j] for j in (3, 1, 0, 2)} | {"target": y}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    source, like = save(model, tmp_path), str(tmp_path / "t.parquet")
    with pytest.raises(PackageError, match=r"takes 4 columns, but the table has 5 \(c3, c1, c0, c2, target\)"):
        package_model(source, tmp_path / "out", PackageOptions(like=like))
    options = PackageOptions(like=like, drop=("target",), columns=("c0", "c1", "c2", "c3"))
    package = package_model(source, tmp_path / "out", options).package
    live = Live.open(package)
    result = live.predict(live.intake.from_arrow(pq.read_table(like).to_batches()[0]))
    assert result.outputs["label"].tolist() == model.predict(x).tolist()


def test_names_the_model_was_fitted_on_are_looked_for(tmp_path: Path, numbers: Any) -> None:
    import pandas as pd

    x, y = numbers
    model = LogisticRegression().fit(pd.DataFrame(x, columns=["a", "b", "c", "d"]), y)
    source = save(model, tmp_path)
    pq.write_table(pa.table({"d": x[:, 3], "b": x[:, 1], "a": x[:, 0], "y": y}), tmp_path / "short.parquet")
    with pytest.raises(PackageError, match=r"the model takes c, which the table lacks \(not in it\)"):
        package_model(source, tmp_path / "out", PackageOptions(like=str(tmp_path / "short.parquet")))
    whole = {"d": x[:, 3], "c": x[:, 2], "b": x[:, 1], "a": x[:, 0], "y": y}
    pq.write_table(pa.table(whole), tmp_path / "whole.parquet")
    package = package_model(source, tmp_path / "out", PackageOptions(like=str(tmp_path / "whole.parquet"))).package
    assert [c.name for c in package.manifest.inputs[0].columns] == ["a", "b", "c", "d"]


def test_a_classifier_without_probabilities_gives_its_decision(tmp_path: Path, numbers: Any) -> None:
    x, y = numbers
    model = LinearSVC().fit(x, y)
    package = package_model(save(model, tmp_path), tmp_path / "out").package
    assert [(o.name, o.shape) for o in package.manifest.outputs] == [("label", (-1,)), ("decision", (-1, 3))]
    live = Live.open(package)
    found = live.predict(live.intake.from_arrays({"input": x.astype(np.float32)})).outputs["decision"]
    np.testing.assert_allclose(found, model.decision_function(x), rtol=1e-4, atol=1e-4)


def test_several_targets_keep_the_shape_that_the_converter_forgets(tmp_path: Path, numbers: Any) -> None:
    from sklearn.ensemble import RandomForestRegressor

    x, _ = numbers
    model = RandomForestRegressor(5, random_state=0).fit(x, x[:, :2])
    options = PackageOptions(trusted=models.TREES_TRUSTED)
    package = package_model(save(model, tmp_path), tmp_path / "out", options).package
    assert package.manifest.runtime.name == "onnx"
    assert [o.shape for o in package.manifest.outputs] == [(-1, 2)]


def test_text_alone(tmp_path: Path) -> None:
    texts = ["the mill grinds", "a tide comes in", "the mill stands still", "low tide, high tide"] * 20
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [0, 1, 0, 1] * 20)
    pq.write_table(pa.table({"text": texts}), tmp_path / "t.parquet")
    options = PackageOptions(like=str(tmp_path / "t.parquet"), max_categories=0)
    package = package_model(save(model, tmp_path), tmp_path / "out", options).package
    live = Live.open(package)
    rows = live.intake.from_arrow(pa.RecordBatch.from_pydict({"text": ["the tide", "a mill"]}))
    assert live.predict(rows).outputs["label"].tolist() == model.predict(["the tide", "a mill"]).tolist()


def test_text_without_a_table_asks_for_one(models_dir: Path, tmp_path: Path) -> None:
    models.sklearn_pipeline(models_dir)
    with pytest.raises(PackageError, match="Pipeline was fitted on text columns: pass --like TABLE"):
        package_model(models_dir / "pipeline.skops", tmp_path / "out", PackageOptions(trusted=models.TREES_TRUSTED))
