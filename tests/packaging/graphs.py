"""Small ONNX graphs made by hand, for what no trained model shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]


def value(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> Any:
    """A typed input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
    **options: Any,
) -> Path:
    """A model file of these nodes. `opset` and `ir` may be set; other options go to `onnx.save`."""
    opset = options.pop("opset", 21)
    ir = options.pop("ir", 10)
    initializers = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.save(model, path, **options)
    return path


def doubler(path: Path, shape: Shape, kind: int = TensorProto.FLOAT, **options: Any) -> Path:
    """y = x + x."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return save(path, [node], [value("x", shape, kind)], [value("y", shape, kind)], **options)
