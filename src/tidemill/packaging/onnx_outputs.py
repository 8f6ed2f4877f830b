"""The outputs of a converted graph: by our names, with the datatypes that ONNX Runtime sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnxruntime as ort

from tidemill.datatypes import DataTypeName, datatype
from tidemill.runtimes.onnx import DATATYPES

__all__ = ["rename_outputs"]


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
