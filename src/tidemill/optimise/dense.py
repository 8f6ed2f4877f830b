"""Pruning of whole hidden units of dense layers: the weights that make them and the weights that read them are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from tidemill.optimise.graph import Graph, attribute, tensor_values
from tidemill.rows import Array

__all__ = ["Cut", "prune_units"]

# Each value depends on its own unit alone.
_UNARY = frozenset(
    {"Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish"}
    | {"Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"}
)
_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "PRelu"})
_NUMBERS = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, slots=True)
class Cut:
    """What became of one layer: the tensor it makes, and its units before and after."""

    layer: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class _Dense:
    """A Gemm or MatMul by a constant. `weight` is (in, out), or the other way round where `transposed`."""

    node: onnx.NodeProto
    transposed: bool
    weight: Array
    bias: Array | None

    @property
    def inwards(self) -> Array:
        return self.weight.T if self.transposed else self.weight


@dataclass(slots=True)
class _Reach:
    """Where the units of a layer go: constants with one value a unit, by name and axis, and the layers that read them,
    each with the tensor it reads.
    """

    constants: list[tuple[str, int]] = field(default_factory=list)
    layers: list[tuple[str, _Dense]] = field(default_factory=list)


def prune_units(model: onnx.ModelProto, feeds: Mapping[str, Array], ratio: float) -> tuple[onnx.ModelProto, list[Cut]]:
    """A copy of the model without a share of the units of each hidden dense layer, and what was cut; nothing where no
    layer can be.

    Units go by what the next layers lose with them on the rows of `feeds`: the standard deviation of a unit, times the
    length of the weights that read it. What a unit gives on average is added to the bias of its readers. Layers are
    taken from first to last, so that later ones are judged by what the earlier ones have become.
    """
    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    cuts: list[Cut] = []
    if Graph(pruned).nested:
        return pruned, cuts
    for name in [n.output[0] for n in pruned.graph.node if n.op_type in ("Gemm", "MatMul")]:
        graph = Graph(pruned)
        layer = _dense(graph, graph.maker[name])
        reach = None if layer is None else _reach(graph, name, layer.inwards.shape[1])
        if layer is None or reach is None or not reach.layers:
            continue
        units = layer.inwards.shape[1]
        gone = min(int(units * ratio), units - 1)
        if gone:
            _cut(graph, layer, reach, feeds, gone)
            cuts.append(Cut(name, units, units - gone))
    # What was inferred of shapes no longer holds.
    del pruned.graph.value_info[:]
    return pruned, cuts


def _dense(graph: Graph, node: onnx.NodeProto) -> _Dense | None:
    """The node as a dense layer, if it is one that can be cut."""
    weight = graph.constant(node.input[1]) if node.op_type in ("Gemm", "MatMul") else None
    if weight is None or weight.ndim != 2 or weight.dtype not in _NUMBERS:
        return None
    if node.op_type == "MatMul":
        return _Dense(node, False, weight, None)
    plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
    if not plain or attribute(node, "transA", 0):
        return None
    transposed = bool(attribute(node, "transB", 0))
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constant(node.input[2])
        width = weight.shape[0 if transposed else 1]
        if bias is None or bias.shape not in ((width,), (1, width)):
            return None
    return _Dense(node, transposed, weight, bias)


def _reach(graph: Graph, name: str, units: int, reach: _Reach | None = None) -> _Reach | None:
    """Follow the units of a tensor through what treats each of them alone, up to the layers that mix them; None where
    they come out of the graph, or meet anything else.
    """
    reach = _Reach() if reach is None else reach
    if name in graph.outputs:
        return None
    for node in graph.readers.get(name, ()):
        if node.op_type in ("Gemm", "MatMul"):
            layer = _dense(graph, node)
            if layer is None or list(node.input).count(name) != 1 or node.input[0] != name:
                return None
            reach.layers.append((name, layer))
        elif not _each_alone(graph, node, name, units, reach) or not _reach(graph, node.output[0], units, reach):
            return None
    return reach


def _each_alone(graph: Graph, node: onnx.NodeProto, name: str, units: int, reach: _Reach) -> bool:
    """Whether a node treats each unit alone; its constants of one value a unit are added to `reach`."""
    if len([o for o in node.output if o]) != 1:
        return False
    if node.op_type in _UNARY:
        return bool(node.input[0] == name)
    if node.op_type in _BINARY and list(node.input).count(name) == 1:
        other = next(n for n in node.input if n != name)
        return _per_unit(graph, other, units, reach)
    return False


def _per_unit(graph: Graph, name: str, units: int, reach: _Reach) -> bool:
    value = graph.constant(name)
    if value is None:
        return False
    if value.size == 1:
        return value.ndim <= 2
    # Further axes of length one widen nothing.
    if value.ndim > 2 or value.shape[-1] != units or value.size != units:
        return False
    reach.constants.append((name, value.ndim - 1))
    return True


def _cut(graph: Graph, layer: _Dense, reach: _Reach, feeds: Mapping[str, Array], gone: int) -> None:
    values = tensor_values(graph.model, [name for name, _ in reach.layers], feeds)
    loss = np.zeros(layer.inwards.shape[1])
    means = []
    for name, reader in reach.layers:
        seen = values[name].reshape(-1, len(loss)).astype(np.float64)
        means.append(seen.mean(axis=0))
        loss += seen.std(axis=0) * np.linalg.norm(reader.inwards.astype(np.float64), axis=1)
    out = np.sort(np.argsort(loss, kind="stable")[:gone])
    keep = np.setdiff1d(np.arange(len(loss)), out)
    for mean, (_, reader) in zip(means, reach.layers, strict=True):
        _compensate(graph, reader, mean[out] @ reader.inwards[out].astype(np.float64))
        graph.put(reader.node.input[1], np.take(reader.weight, keep, axis=1 if reader.transposed else 0))
    for name, axis in reach.constants:
        value = graph.constant(name)
        if value is not None:
            graph.put(name, np.take(value, keep, axis=axis))
    graph.put(layer.node.input[1], np.take(layer.weight, keep, axis=0 if layer.transposed else 1))
    if layer.bias is not None:
        graph.put(layer.node.input[2], layer.bias[..., keep])


def _compensate(graph: Graph, reader: _Dense, shift: Array) -> None:
    """Add what the units gave on average to the reader's bias, or to the sum that stands in its place."""
    node = reader.node
    if reader.bias is not None:
        graph.put(node.input[2], (reader.bias + shift).astype(reader.bias.dtype))
        return
    if node.op_type == "Gemm":
        added = f"{node.output[0]}_bias"
        del node.input[2:]
        node.input.append(added)
        graph.put(added, shift.astype(reader.weight.dtype))
        return
    readers = graph.readers.get(node.output[0], [])
    if node.output[0] in graph.outputs or len(readers) != 1 or readers[0].op_type != "Add":
        return
    name = next((n for n in readers[0].input if n != node.output[0]), "")
    value = graph.constant(name)
    if value is not None and value.shape in (shift.shape, (1, *shift.shape)):
        graph.put(name, (value + shift).astype(value.dtype))
