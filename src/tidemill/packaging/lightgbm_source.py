"""LightGBM model files (`Booster.save_model`): converted with onnxmltools, checked against LightGBM itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from tidemill.errors import PackageError
from tidemill.model.manifest import Task
from tidemill.packaging.booster import INPUT, booster_draft, columns_of, matrix
from tidemill.packaging.draft import Draft, Unused
from tidemill.packaging.options import PackageOptions
from tidemill.packaging.table import LikeTable
from tidemill.rows import Array

__all__ = ["drafts"]


def drafts(source: Path, options: PackageOptions, table: LikeTable | None) -> Iterator[Draft | Unused]:
    """The one way of a LightGBM model. Raises PackageError for a file LightGBM cannot read."""
    try:
        booster = lightgbm.Booster(model_file=str(source))
    except lightgbm.basic.LightGBMError as error:
        raise PackageError(f"{source.name}: LightGBM cannot load it: {error}") from error
    if booster.pandas_categorical:
        raise PackageError(
            f"{source.name}: trained on pandas categories, which it knows by their order only; encode them as integers "
            "and train anew, or package a scikit-learn Pipeline"
        )
    dump = booster.dump_model()
    objective = str(dump.get("objective", "")).partition(" ")[0]
    names = booster.feature_name()
    own = None if all(n == f"Column_{i}" for i, n in enumerate(names)) else names
    columns = columns_of(own, len(names), options, table)
    per_row = booster.num_model_per_iteration()
    classes = 2 if objective == "binary" else per_row if objective.startswith("multiclass") else 0
    ranking = objective in ("lambdarank", "rank_xendcg")
    task: Task = "classification" if classes else "ranking" if ranking else "regression"
    thresholds: dict[int, list[float]] = {}
    for tree in dump["tree_info"]:
        _splits(tree["tree_structure"], thresholds)

    def predict(rows: pa.RecordBatch) -> Mapping[str, Array]:
        found = np.asarray(booster.predict(matrix(rows, columns)))
        if not classes:
            return {"value": found}
        both = np.column_stack([1 - found, found]) if found.ndim == 1 else found
        return {"label": both.argmax(axis=1), "probabilities": both}

    def convert() -> Any:
        trees = booster.num_trees() // per_row if dump.get("average_output") else 1
        exact = lightgbm.Booster(model_str=_convertible(booster.model_to_string(), trees))
        return convert_lightgbm(exact, initial_types=[(INPUT, FloatTensorType([None, len(names)]))], zipmap=False)

    yield booster_draft(
        convert=convert,
        columns=columns,
        width=len(names),
        classes=classes,
        task=task,
        predict=predict,
        thresholds={j: np.array(v) for j, v in thresholds.items()},
        tools={"lightgbm": lightgbm.__version__},
        options=options,
        table=table,
    )


def _convertible(text: str, trees: int) -> str:
    """The model as the converter carries it without loss.

    Each threshold t becomes the greatest FP32 number not above it: for every FP32 value x, `x <= t` is then what
    ONNX's FP32 comparison answers, also where t would be rounded up. A mean over `trees` (a random forest) becomes
    a sum of leaves divided by their number.
    """
    lines = []
    for line in text.split("\n"):
        key, equals, values = line.partition("=")
        # The sizes are those of the text before; without them it is read tree by tree.
        if key in ("tree_sizes", "average_output"):
            continue
        if key == "threshold":
            exact = np.array(values.split(), np.float64)
            near = exact.astype(np.float32)
            lines.append(key + equals + _text(np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)))
        elif key == "leaf_value" and trees > 1:
            lines.append(key + equals + _text(np.array(values.split(), np.float64) / trees))
        else:
            lines.append(line)
    return "\n".join(lines)


def _text(values: Array) -> str:
    return " ".join(repr(float(v)) for v in values)


def _splits(node: Mapping[str, Any], found: dict[int, list[float]]) -> None:
    if "split_feature" not in node:
        return
    if node.get("decision_type") == "<=":
        found.setdefault(int(node["split_feature"]), []).append(float(node["threshold"]))
    _splits(node["left_child"], found)
    _splits(node["right_child"], found)
