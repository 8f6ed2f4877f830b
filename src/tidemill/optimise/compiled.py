"""An ONNX tree ensemble as a LightGBM text file, which lleaves compiles to machine code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx

from tidemill.errors import PackageError
from tidemill.optimise.ensemble import ENSEMBLES, Ensemble, Tree, ensemble_nodes
from tidemill.optimise.graph import Graph

__all__ = ["lightgbm_text"]

# LightGBM's bits: where missing values are NaN, and where they go left.
_MISSING_NAN, _DEFAULT_LEFT = 2 << 2, 1 << 1
# Which child holds what the text's only comparison, `x <= t`, says yes to; and whether equal values belong to it.
_YES_LEFT = {"BRANCH_LEQ": True, "BRANCH_LT": False}
_NO_LEFT = {"BRANCH_GT": True, "BRANCH_GTE": False}


def lightgbm_text(model: onnx.ModelProto) -> str:
    """The text of the same trees: every FP32 row ends in the leaf that ONNX Runtime finds, and sums differ by rounding.

    Raises PackageError for a graph that is more than one ensemble, or an ensemble that the format cannot tell.
    """
    nodes = ensemble_nodes(model)
    others = [n for n in model.graph.node if n.op_type not in ENSEMBLES and not _changes_nothing(Graph(model), n)]
    if len(nodes) != 1 or others:
        has = ", ".join(sorted({n.op_type for n in [*others, *nodes]}))
        raise PackageError(f"its graph is not one tree ensemble alone: it has {has}")
    if nodes[0].input[0] not in {i.name for i in model.graph.input}:
        raise PackageError("its trees do not read the input itself")
    ensemble = Ensemble(nodes[0])
    objective, per_row = _objective(ensemble)
    width = _width(model)
    blocks = ["\n".join(_block(number, *tree)) for number, tree in enumerate(_ordered(ensemble, per_row))]
    head = [
        "tree",
        "version=v4",
        f"num_class={per_row}",
        f"num_tree_per_iteration={per_row}",
        "label_index=0",
        f"max_feature_idx={width - 1}",
        f"objective={objective}",
        f"feature_names={' '.join(f'Column_{i}' for i in range(width))}",
        # What is no category; the range itself is of no use to the trees.
        f"feature_infos={' '.join(['[-1:1]'] * width)}",
        f"tree_sizes={' '.join(str(len(block)) for block in blocks)}",
        "\n",
    ]
    return "\n".join(head) + "".join(blocks) + "end of trees\n\npandas_categorical:[]\n"


def _changes_nothing(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node gives what it gets, perhaps in another datatype."""
    if node.op_type == "Mul":
        factors = [graph.constant(name) for name in node.input]
        return any(f is not None and f.size == 1 and (f == 1).all() for f in factors)
    return node.op_type in ("Cast", "Identity")


def _objective(ensemble: Ensemble) -> tuple[str, int]:
    """LightGBM's name of the link, and its trees a round."""
    scores = len(ensemble.score_ids)
    if not ensemble.summed:
        raise PackageError("its trees are not added up")
    if ensemble.classifier:
        if ensemble.post == "LOGISTIC" and ensemble.classes == 2 and scores == 1:
            return "binary sigmoid:1", 1
        if ensemble.post == "SOFTMAX" and scores == ensemble.classes > 2:
            return f"multiclass num_class:{scores}", scores
        raise PackageError(f"its {ensemble.classes} classes come of {scores} scores by {ensemble.post}")
    if scores == 1 and ensemble.post in ("NONE", "LOGISTIC"):
        return ("regression", 1) if ensemble.post == "NONE" else ("cross_entropy", 1)
    raise PackageError(f"it gives {scores} values by {ensemble.post}")


def _width(model: onnx.ModelProto) -> int:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if len(model.graph.input) != 1 or len(dims) != 2 or dims[1].dim_value < 1:
        raise PackageError("it does not take one matrix of known width")
    return int(dims[1].dim_value)


def _ordered(ensemble: Ensemble, per_row: int) -> list[tuple[Tree | None, list[float]]]:
    """The trees with their leaves' values, one of each score in turn; base values are leaves of a tree without splits,
    and so is what evens out scores that have fewer trees.
    """
    by_score: dict[int, list[tuple[Tree | None, list[float]]]] = {i: [] for i in range(per_row)}
    scale = 1 / len(ensemble.tree_ids) if ensemble.averaged else 1.0
    for tree in ensemble.trees():
        used = np.flatnonzero(tree.values.any(axis=0)).tolist()
        if len(used) > 1:
            raise PackageError("its leaves give several scores at once")
        score = used[0] if used else ensemble.score_ids[0]
        by_score[score if per_row > 1 else 0].append((tree, (tree.values[:, score] * scale).tolist()))
    base = ensemble.base if len(ensemble.base) else np.zeros(per_row)
    for i, trees in by_score.items():
        start = float(base[i] if per_row > 1 else base[-1])
        if start or not trees:
            trees.insert(0, (None, [start]))
    most = max(map(len, by_score.values()))
    return [by_score[i][n] if n < len(by_score[i]) else (None, [0.0]) for n in range(most) for i in range(per_row)]


def _block(number: int, tree: Tree | None, values: Sequence[float]) -> Iterator[str]:
    """The lines of one tree: inner nodes by number, leaves by -1 less their number."""
    splits: list[tuple[int, float, int, int, int]] = []
    ends = list(values)
    if tree is not None:
        places = range(len(tree.modes))
        inner = {place: i for i, place in enumerate(p for p in places if tree.yes[p] >= 0)}
        leaves = {place: -1 - i for i, place in enumerate(p for p in places if p not in inner)}
        if inner and tree.root != next(iter(inner)):
            raise PackageError("its trees do not begin at their roots")
        told = inner | leaves
        for place in inner:
            threshold, kind, left, right = _split(tree, place)
            splits.append((int(tree.features[place]), threshold, kind, told[left], told[right]))
        ends = [values[place] for place in leaves]
    yield f"Tree={number}"
    yield f"num_leaves={len(ends)}"
    yield "num_cat=0"
    yield f"split_feature={_told(s[0] for s in splits)}"
    yield f"split_gain={_told(0 for _ in splits)}"
    yield f"threshold={_told(s[1] for s in splits)}"
    yield f"decision_type={_told(s[2] for s in splits)}"
    yield f"left_child={_told(s[3] for s in splits)}"
    yield f"right_child={_told(s[4] for s in splits)}"
    yield f"leaf_value={_told(ends)}"
    yield "is_linear=0"
    yield "shrinkage=1"
    yield "\n"


def _told(values: Iterable[float]) -> str:
    return " ".join(map(repr, values))


def _split(tree: Tree, place: int) -> tuple[float, int, int, int]:
    """Threshold, decision type, left and right child of a node, so that left is `x <= threshold`."""
    mode, threshold = str(tree.modes[place]), tree.thresholds[place]
    yes, no, missing = int(tree.yes[place]), int(tree.no[place]), bool(tree.missing[place])
    if mode in _YES_LEFT:
        left, right, with_equal, missing_left = yes, no, _YES_LEFT[mode], missing
    elif mode in _NO_LEFT:
        left, right, with_equal, missing_left = no, yes, _NO_LEFT[mode], not missing
    else:
        raise PackageError(f"its trees compare by {mode}")
    if not with_equal:
        threshold = np.nextafter(threshold, threshold.dtype.type(-np.inf))
    return float(threshold), _MISSING_NAN | (_DEFAULT_LEFT if missing_left else 0), left, right
