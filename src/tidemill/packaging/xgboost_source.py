"""XGBoost model files (JSON, UBJSON): converted with onnxmltools, checked against XGBoost's own prediction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost
from onnxmltools import convert_xgboost
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
    """The one way of an XGBoost model. Raises PackageError for a file XGBoost cannot read."""
    try:
        booster = xgboost.Booster(model_file=source)
        learner = json.loads(booster.save_config())["learner"]
    except (xgboost.core.XGBoostError, KeyError, ValueError) as error:
        raise PackageError(f"{source.name}: XGBoost cannot load it: {str(error).splitlines()[0]}") from error
    if "c" in (booster.feature_types or ()):
        raise PackageError(
            f"{source.name}: trained on categorical columns, which do not convert; encode them as numbers"
        )
    if int(learner["learner_model_param"]["num_target"]) > 1:
        raise PackageError(f"{source.name}: a model of several targets does not convert; package one a target")
    objective = str(learner["objective"]["name"])
    width = booster.num_features()
    columns = columns_of(booster.feature_names, width, options, table)
    several = int(learner["learner_model_param"]["num_class"])
    classes = several if objective.startswith("multi:") else 2 if objective == "binary:logistic" else 0
    task: Task = "classification" if classes else "ranking" if objective.startswith("rank:") else "regression"
    thresholds: dict[int, list[float]] = {}
    # The converter knows columns by number only.
    booster.feature_names = None
    stand_in = "multi:softprob" if objective == "multi:softmax" else "reg:squarederror" if task == "ranking" else ""
    for tree in booster.get_dump(dump_format="json"):
        _splits(json.loads(tree), thresholds)

    def predict(rows: pa.RecordBatch) -> Mapping[str, Array]:
        data = xgboost.DMatrix(matrix(rows, columns))
        if not classes:
            return {"value": np.asarray(booster.predict(data))}
        if several:
            # multi:softmax answers the class only; its margins give the probabilities either way.
            margins = np.asarray(booster.predict(data, output_margin=True), np.float64)
            powers = np.exp(margins - margins.max(axis=1, keepdims=True))
            both = powers / powers.sum(axis=1, keepdims=True)
        else:
            found = np.asarray(booster.predict(data))
            both = np.column_stack([1 - found, found])
        return {"label": both.argmax(axis=1), "probabilities": both}

    def convert() -> Any:
        known = booster.copy()
        if stand_in:
            # The same trees; the converter knows the link of these names only.
            known.set_param({"objective": stand_in})
        return convert_xgboost(known, initial_types=[(INPUT, FloatTensorType([None, width]))])

    yield booster_draft(
        convert=convert,
        columns=columns,
        width=width,
        classes=classes,
        task=task,
        predict=predict,
        thresholds={j: np.array(v) for j, v in thresholds.items()},
        tools={"xgboost": xgboost.__version__},
        options=options,
        table=table,
    )


def _splits(node: Mapping[str, Any], found: dict[int, list[float]]) -> None:
    if "split" not in node:
        return
    found.setdefault(int(str(node["split"]).removeprefix("f")), []).append(float(node["split_condition"]))
    for child in node["children"]:
        _splits(child, found)
