"""Pruning of whole trees of an ensemble: those go that add least to its answers on the user's rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from tidemill.optimise.dense import Cut
from tidemill.optimise.ensemble import Ensemble, ensemble_nodes
from tidemill.optimise.graph import tensor_values
from tidemill.rows import Array

__all__ = ["prune_trees"]


def prune_trees(model: onnx.ModelProto, feeds: Mapping[str, Array], ratio: float) -> tuple[onnx.ModelProto, list[Cut]]:
    """A copy of the model without a share of the trees of each ensemble, and what was cut.

    A tree adds little where its scores hardly vary over the rows of `feeds`: what it gives on average goes into the
    base values, and only what it adds to that is lost.
    """
    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    cuts: list[Cut] = []
    for node in ensemble_nodes(pruned):
        ensemble = Ensemble(node)
        count = len(ensemble.tree_ids)
        gone = min(int(count * ratio), count - 1)
        if gone <= 0 or not ensemble.summed or not ensemble.score_ids:
            continue
        matrix = tensor_values(model, [node.input[0]], feeds)[node.input[0]]
        means, spread = _contributions(ensemble, matrix)
        order = np.argsort(spread, kind="stable")
        out, kept = order[:gone], order[gone:]
        shift = means[out].sum(axis=0) / (count if ensemble.averaged else 1)
        ensemble.keep({ensemble.tree_ids[i] for i in kept}, _base(ensemble, shift))
        cuts.append(Cut(node.output[0], count, count - gone))
    return pruned, cuts


def _contributions(ensemble: Ensemble, matrix: Array) -> tuple[Array, Array]:
    """Of each tree the mean of its scores over the rows, (trees, k), and how far they vary, (trees,)."""
    means, spread = [], []
    for tree in ensemble.trees():
        given = tree.values[tree.leaves_of(matrix)]
        means.append(given.mean(axis=0))
        spread.append(float(np.sqrt(given.var(axis=0).sum())))
    return np.array(means), np.array(spread)


def _base(ensemble: Ensemble, shift: Array) -> Array:
    """The base values with a constant more on each score: as many as there were, else one for each score that leaves
    add to (a classifier of two classes has only one such score).
    """
    width = len(ensemble.base)
    if not width:
        binary = ensemble.classes == 2 and len(ensemble.score_ids) == 1
        width = 1 if binary or (ensemble.k == 1 and not ensemble.classes) else max(ensemble.k, ensemble.classes)
    base = np.zeros(width) if not len(ensemble.base) else ensemble.base.copy()
    if len(ensemble.score_ids) == 1:
        # The one score of a classifier of two classes belongs to the second.
        base[-1 if ensemble.classes == 2 else ensemble.score_ids[0]] += shift[ensemble.score_ids[0]]
    else:
        base[: len(shift)] += shift
    return base
