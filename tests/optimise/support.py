"""A network and a tree ensemble trained on real data, packaged once for all tests; and asking an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq

from tests.models import cancer_table, digits_table, once
from tidemill.model.package import Package, open_package
from tidemill.packaging import PackageOptions, package_model


def network(directory: Path) -> Package:
    """Two hidden layers of 64 on digits: `X` from a list column; the truth is `target` of `digits_table`."""
    return open_package(_network(directory))


def boosted(directory: Path) -> Package:
    """A LightGBM model on breast cancer; the truth is `target` of `cancer_table`, its text file `boosted.txt`."""
    return open_package(_boosted(directory))


@once("wide_network")
def _network(directory: Path, target: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.utils._testing import ignore_warnings

    table = pq.read_table(digits_table(directory))
    x = table["X"].combine_chunks().flatten().to_numpy().reshape(-1, 64)
    model = MLPClassifier((64, 64), max_iter=30, random_state=0)
    with ignore_warnings(category=ConvergenceWarning):
        model.fit(x[:1200], table["target"].to_numpy()[:1200])
    source = directory / "wide_network.onnx"
    source.write_bytes(to_onnx(model, x[:1], options={"zipmap": False}).SerializeToString())
    options = PackageOptions(name="digits", like=str(digits_table(directory)), drop=("target",), p99_ms=50)
    package_model(source, target, options)


@once("boosted")
def _boosted(directory: Path, target: Path) -> None:
    import lightgbm

    table = pq.read_table(cancer_table(directory))
    x = np.column_stack([c.to_numpy() for c in table.drop_columns(["target"]).columns])
    data = lightgbm.Dataset(x, table["target"].to_numpy(), feature_name=table.drop_columns(["target"]).column_names)
    parameters = {"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1}
    lightgbm.train(parameters, data, 40).save_model(directory / "boosted.txt")
    options = PackageOptions(name="cancer", like=str(cancer_table(directory)), drop=("target",))
    package_model(directory / "boosted.txt", target, options)


def ask(model: onnx.ModelProto | bytes, feeds: Mapping[str, np.ndarray]) -> list[Any]:
    """All outputs of a graph."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, dict(feeds))
