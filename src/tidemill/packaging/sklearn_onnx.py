"""skl2onnx: an estimator to an ONNX file with our names of its outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import skl2onnx
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType
from sklearn.base import ClassifierMixin
from sklearn.impute import SimpleImputer

from tidemill.datatypes import DataTypeName
from tidemill.model.signature import Input
from tidemill.packaging.onnx_outputs import rename_outputs
from tidemill.runtimes.sklearn import parts

__all__ = ["OPSETS", "convert"]

# Some of skl2onnx's converters know version 3 of the machine-learning operators only.
OPSETS = {"": 21, "ai.onnx.ml": 3}
_TENSORS = {"FP32": FloatTensorType, "FP64": DoubleTensorType, "BYTES": StringTensorType}


def convert(
    estimator: Any, inputs: Sequence[Input], outputs: Sequence[str]
) -> tuple[bytes, list[DataTypeName], Mapping[str, str]]:
    """The ONNX file, the datatypes of its outputs (those named in `outputs`, in order) and the tools used.

    Raises whatever the converter raises.
    """
    _register_boosters(estimator)
    types = [(i.name, _TENSORS[i.datatype]([None, *(i.shape[1:] or (1,))])) for i in inputs]
    model = skl2onnx.convert_sklearn(
        _with_empty_text(estimator),
        initial_types=types,
        options={"zipmap": False} if hasattr(estimator, "predict_proba") else None,
        target_opset=OPSETS,
    )
    datatypes = rename_outputs(model, outputs)
    return model.SerializeToString(), datatypes, {"skl2onnx": skl2onnx.__version__, "onnx": onnx.__version__}


def _register_boosters(estimator: Any) -> None:
    """Teach skl2onnx the estimators of LightGBM and XGBoost if one stands in the Pipeline. The import fails where
    onnxmltools is absent, and with it the conversion: skops remains.
    """
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes as classifier_shapes,
    )
    from skl2onnx.common.shape_calculator import (
        calculate_linear_regressor_output_shapes as regressor_shapes,
    )

    for kind in {type(part) for part in parts(estimator)}:
        home = kind.__module__.partition(".")[0]
        if home == "lightgbm":
            from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm as converter
        elif home == "xgboost":
            from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as converter
        else:
            continue
        classifier = issubclass(kind, ClassifierMixin)
        skl2onnx.update_registered_converter(
            kind,
            f"{home}{kind.__name__}",
            classifier_shapes if classifier else regressor_shapes,
            converter,
            options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifier else {"split": None},
        )


def _with_empty_text(estimator: Any) -> Any:
    """A copy for which missing text is the empty string: ONNX text has no null. Compared with the original later."""
    changed = copy.deepcopy(estimator)
    for part in parts(changed):
        if isinstance(part, SimpleImputer) and getattr(part, "statistics_", np.empty(0)).dtype.kind == "O":
            part.missing_values = ""
        if hasattr(part, "categories_"):
            part.categories_ = [_known(c) if np.asarray(c).dtype.kind == "O" else c for c in part.categories_]
    return changed


def _known(categories: Any) -> Any:
    return np.array(["" if c is None or c != c else c for c in categories], np.object_)
