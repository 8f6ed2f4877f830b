"""skl2onnx: an estimator to an ONNX file with our names of its outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import skl2onnx
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType
from sklearn.base import ClassifierMixin
from sklearn.impute import SimpleImputer

from tidemill.datatypes import DataTypeName, datatype
from tidemill.model.signature import Input
from tidemill.runtimes.onnx import DATATYPES
from tidemill.runtimes.sklearn import parts

__all__ = ["OPSETS", "convert", "rename_outputs"]

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


def rename_outputs(model: Any, names: Sequence[str]) -> list[DataTypeName]:
    """Give the first outputs of a graph these names and drop the others; returns their datatypes."""
    graph = model.graph
    if len(graph.output) < len(names):
        raise ValueError(f"the converted model has {len(graph.output)} outputs, expected {', '.join(names)}")
    new = {graph.output[i].name: name for i, name in enumerate(names)}
    taken = {n for node in graph.node for n in (*node.input, *node.output)} | {i.name for i in graph.input}
    for name in set(names) & (taken - new.keys()):
        new[name] = f"{name}_inner"
    for node in graph.node:
        for side in (node.input, node.output):
            for i, name in enumerate(side):
                side[i] = new.get(name, name)
    del graph.output[len(names) :]
    for i, name in enumerate(names):
        graph.output[i].name = name
        # What the converters state of shape and type is not always true; ONNX Runtime infers it.
        graph.output[i].ClearField("type")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [datatype(DATATYPES[o.type]) for o in session.get_outputs()]
    for output, type_ in zip(graph.output, found, strict=True):
        text = onnx.TensorProto.STRING
        element = text if type_.name == "BYTES" else onnx.helper.np_dtype_to_tensor_dtype(type_.dtype)
        output.type.tensor_type.elem_type = element
    return [type_.name for type_ in found]


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
