"""An ONNX graph by its tensors: who makes them, who reads them, which are constants; and the values they take."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from tidemill.errors import PackageError
from tidemill.rows import Array, Rows

__all__ = ["Graph", "attribute", "feeds_of", "simplified", "tensor_values"]


class Graph:
    """Look-ups over a model, which they are stale for once its nodes change. `constants` may be changed by `put`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.outputs = {o.name for o in model.graph.output}
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in set(node.input):
                self.readers.setdefault(name, []).append(node)
        self._constants = {t.name: t for t in model.graph.initializer}

    @property
    def nested(self) -> bool:
        """Whether a node holds a graph of its own, whose reading of tensors is not seen here."""
        kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        return any(a.type in kinds for node in self.nodes for a in node.attribute)

    def constant(self, name: str) -> Array | None:
        """The value of a constant that one node alone reads, else None."""
        tensor = self._constants.get(name)
        if tensor is None or len(self.readers.get(name, ())) != 1 or name in self.outputs:
            return None
        return numpy_helper.to_array(tensor)

    def put(self, name: str, value: Array) -> None:
        """Change a constant, or add one."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        known = self._constants.get(name)
        if known is None:
            self.model.graph.initializer.append(tensor)
            self._constants[name] = self.model.graph.initializer[-1]
        else:
            known.CopyFrom(tensor)


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """An attribute's value, as onnx.helper gives it."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def simplified(path: Path) -> onnx.ModelProto:
    """The model as ONNX Runtime simplifies it whatever runs it: constants folded, nodes without effect gone, a product
    and a sum made one Gemm. Raises PackageError for a file that it refuses.
    """
    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="tidemill-") as work:
        target = Path(work) / "simplified.onnx"
        options.optimized_model_filepath = str(target)
        try:
            ort.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
            model = onnx.load(target)
        except Exception as error:
            raise PackageError(f"{path.name}: ONNX Runtime cannot simplify it: {error}") from error
    _flatten_biases(Graph(model))
    return model


def feeds_of(model: onnx.ModelProto, rows: Rows) -> dict[str, Array]:
    """What the graph's inputs are given for these rows. A scalar column is a matrix of one column where it says so."""
    constants = {t.name for t in model.graph.initializer}
    feeds = {}
    for one in model.graph.input:
        if one.name not in constants:
            array = rows.columns[one.name]
            dims = one.type.tensor_type.shape.dim
            columnar = array.ndim == 1 and len(dims) == 2 and dims[1].dim_value == 1
            feeds[one.name] = array.reshape(-1, 1) if columnar else array
    return feeds


def tensor_values(model: onnx.ModelProto, names: Sequence[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The values that tensors inside the graph take for these feeds. Raises PackageError where it refuses them."""
    wanted = [n for n in dict.fromkeys(names) if n not in feeds]
    found = {name: feeds[name] for name in names if name in feeds}
    if wanted:
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        known = {o.name for o in probe.graph.output}
        probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in wanted if n not in known)
        try:
            session = ort.InferenceSession(probe.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
            values = session.run(wanted, dict(feeds))
        except Exception as error:
            raise PackageError(f"its inside cannot be looked at: {type(error).__name__}: {str(error)[:300]}") from error
        found.update(zip(wanted, values, strict=True))
    return found


def _flatten_biases(graph: Graph) -> None:
    """A bias of one row is the same as a list, and quantisation knows lists only."""
    for node in graph.nodes:
        bias = graph.constant(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and bias.ndim == 2 and bias.shape[0] == 1:
            graph.put(node.input[2], bias[0])


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options
