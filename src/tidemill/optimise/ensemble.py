"""A TreeEnsembleRegressor or TreeEnsembleClassifier of ONNX as arrays: read, asked what each tree gives, cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from tidemill.optimise.graph import attribute
from tidemill.rows import Array

__all__ = ["ENSEMBLES", "Ensemble", "Tree", "ensemble_nodes"]

ENSEMBLES = ("TreeEnsembleRegressor", "TreeEnsembleClassifier")


def ensemble_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The tree ensembles of a graph, in its order."""
    return [n for n in model.graph.node if n.op_type in ENSEMBLES and n.domain == "ai.onnx.ml"]


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree, its nodes by their place in it. `yes` and `no` are the children where a node's condition holds and
    where it does not, -1 in leaves; `values` (nodes, k) what a leaf adds to each of k scores; `missing` whether NaN
    holds.
    """

    root: int
    modes: Array
    features: Array
    thresholds: Array
    missing: Array
    yes: Array
    no: Array
    values: Array

    def leaves_of(self, matrix: Array) -> Array:
        """The leaf that each of n rows ends in: INT64 (n,)."""
        at = np.full(len(matrix), self.root)
        rows = np.arange(len(matrix))
        for _ in range(len(self.modes)):
            inner = self.yes[at] >= 0
            if not inner.any():
                break
            cells = matrix[rows, self.features[at]]
            follow = _holds(self.modes[at], cells, self.thresholds[at]) | (self.missing[at] & np.isnan(cells))
            at = np.where(inner, np.where(follow, self.yes[at], self.no[at]), at)
        return at


class Ensemble:
    """The attributes of a node. `k` is the number of scores that leaves may add to, `averaged` whether the sum of the
    trees is divided by their number.
    """

    def __init__(self, node: onnx.NodeProto) -> None:
        self.node = node
        self.classifier = node.op_type == "TreeEnsembleClassifier"
        side = "class" if self.classifier else "target"
        self._leaf = {key: self._array(f"{side}_{key}") for key in ("treeids", "nodeids", "ids", "weights")}
        self._nodes = {key: self._array(f"nodes_{key}") for key in ("treeids", "nodeids", "featureids", "values")}
        self._nodes["missing"] = self._array("nodes_missing_value_tracks_true")
        self._nodes["yes"], self._nodes["no"] = self._array("nodes_truenodeids"), self._array("nodes_falsenodeids")
        self._nodes["modes"] = np.array([m.decode() for m in attribute(node, "nodes_modes", [])])  # type: ignore[attr-defined]
        self.tree_ids: list[int] = list(dict.fromkeys(self._nodes["treeids"].tolist()))
        self.score_ids: list[int] = sorted(set(self._leaf["ids"].tolist()))
        self.base = self._array("base_values").astype(np.float64)
        self.post = _text(attribute(node, "post_transform", b"NONE"))
        self.averaged = _text(attribute(node, "aggregate_function", b"SUM")) == "AVERAGE"
        strings, numbers = attribute(node, "classlabels_strings", []), attribute(node, "classlabels_int64s", [])
        self.classes = len(strings or numbers) if self.classifier else 0  # type: ignore[arg-type]
        self.k = max([*self.score_ids, -1]) + 1

    @property
    def summed(self) -> bool:
        """Whether scores are sums or means of trees, not the least or the greatest of them."""
        return _text(attribute(self.node, "aggregate_function", b"SUM")) in ("SUM", "AVERAGE")

    def trees(self) -> Iterator[Tree]:
        """Each tree, in the order of `tree_ids`."""
        by_tree = _groups(self._nodes["treeids"])
        leaves = _groups(self._leaf["treeids"])
        for tree in self.tree_ids:
            at = by_tree[tree]
            places = {node: i for i, node in enumerate(self._nodes["nodeids"][at].tolist())}
            inner = self._nodes["modes"][at] != "LEAF"
            yes, no = _children(self._nodes["yes"][at], inner, places), _children(self._nodes["no"][at], inner, places)
            values = np.zeros((len(at), max(1, self.k)))
            for j in leaves.get(tree, ()):
                place = places[int(self._leaf["nodeids"][j])]
                values[place, int(self._leaf["ids"][j])] += float(self._leaf["weights"][j])
            missing = self._nodes["missing"]
            yield Tree(
                root=min(set(range(len(at))) - set(yes.tolist()) - set(no.tolist())),
                modes=self._nodes["modes"][at],
                features=self._nodes["featureids"][at].astype(np.int64),
                thresholds=self._nodes["values"][at],
                missing=missing[at].astype(np.bool_) if len(missing) else np.zeros(len(at), np.bool_),
                yes=yes,
                no=no,
                values=values,
            )

    def keep(self, kept: set[int], base: Array) -> None:
        """Leave only these trees in the node, its base values replaced. The weights of a mean are scaled, so that what
        is left of it is divided by the old number of trees.
        """
        nodes, leaves = np.isin(self._nodes["treeids"], list(kept)), np.isin(self._leaf["treeids"], list(kept))
        side = "class" if self.classifier else "target"
        for key in [a.name for a in self.node.attribute if a.name.startswith("nodes_")]:
            self._cut(key, nodes)
        for key in [a.name for a in self.node.attribute if a.name in {f"{side}_{n}" for n in _LEAF}]:
            self._cut(key, leaves)
        if self.averaged:
            self._put(f"{side}_weights", self._leaf["weights"][leaves] * (len(kept) / len(self.tree_ids)))
        self._put("base_values", base)

    def _array(self, name: str) -> Array:
        """An attribute as an array: a list of numbers, or the tensor of FP64 ensembles."""
        tensor = attribute(self.node, f"{name}_as_tensor", None)
        if tensor is not None:
            return numpy_helper.to_array(tensor)  # type: ignore[arg-type]
        found = next((a for a in self.node.attribute if a.name == name), None)
        if found is None:
            return np.empty(0, np.float32)
        if found.type == onnx.AttributeProto.FLOATS:
            return np.array(found.floats, np.float32)
        return np.array(found.ints, np.int64)

    def _cut(self, name: str, mask: Array) -> None:
        found = next(a for a in self.node.attribute if a.name == name)
        if found.type == onnx.AttributeProto.TENSOR:
            array = numpy_helper.to_array(found.t)
            if len(array) == len(mask):
                found.t.CopyFrom(numpy_helper.from_array(array[mask], found.t.name))
            return
        for values in (found.floats, found.ints, found.strings):
            if len(values) == len(mask):
                left = [v for v, keep in zip(values, mask.tolist(), strict=True) if keep]
                del values[:]
                values.extend(left)

    def _put(self, name: str, values: Array) -> None:
        """Write numbers in the form that the other numbers of this node have."""
        double = any(a.name.endswith("_as_tensor") for a in self.node.attribute)
        kept = [a for a in self.node.attribute if a.name not in (name, f"{name}_as_tensor")]
        del self.node.attribute[:]
        self.node.attribute.extend(kept)
        if double:
            tensor = numpy_helper.from_array(values.astype(np.float64), f"{name}_as_tensor")
            self.node.attribute.append(onnx.helper.make_attribute(f"{name}_as_tensor", tensor))
        else:
            self.node.attribute.append(onnx.helper.make_attribute(name, values.astype(np.float32).tolist()))


_LEAF = ("treeids", "nodeids", "ids", "weights", "weights_as_tensor")


def _holds(modes: Array, cells: Array, thresholds: Array) -> Array:
    held = np.zeros(len(cells), np.bool_)
    for mode in np.unique(modes):
        at = modes == mode
        a, b = cells[at], thresholds[at]
        held[at] = (
            a <= b if mode == "BRANCH_LEQ" else a < b if mode == "BRANCH_LT" else a > b if mode == "BRANCH_GT"
            else a >= b if mode == "BRANCH_GTE" else a == b if mode == "BRANCH_EQ" else a != b
        )  # fmt: skip
    return held


def _children(ids: Array, inner: Array, places: dict[int, int]) -> Array:
    return np.array([places[i] if is_inner else -1 for i, is_inner in zip(ids.tolist(), inner.tolist(), strict=True)])


def _groups(ids: Array) -> dict[int, Array]:
    """Where each id stands."""
    order = np.argsort(ids, kind="stable")
    values, starts = np.unique(ids[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
