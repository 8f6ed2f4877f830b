"""Derived outputs: labels, thresholds and top-k, computed from a model's scores as the signature declares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tidemill.model.signature import Output
from tidemill.rows import Array

__all__ = ["derivation"]


def derivation(output: Output, scores: Output) -> Callable[[Array], Array]:
    """The function from the scores (n,) or (n, classes) to this output's column."""
    labels = np.array(output.labels or scores.labels, np.object_)
    if output.threshold is not None:
        return _threshold(output, output.threshold, labels)
    if output.top_k is not None:
        return _top_k(output, output.top_k, labels)
    if output.datatype == "BYTES":
        return lambda s: _label(labels, np.argmax(s, axis=1))
    return lambda s: np.argmax(s, axis=1).astype(np.int64)


def _threshold(output: Output, threshold: float, labels: Array) -> Callable[[Array], Array]:
    def reached(scores: Array) -> Array:
        score = scores if scores.ndim == 1 else scores[:, -1]
        hit: Array = score >= scores.dtype.type(threshold)
        return hit if output.datatype == "BOOL" else labels[hit.astype(np.intp)]

    return reached


def _top_k(output: Output, k: int, labels: Array) -> Callable[[Array], Array]:
    def best(scores: Array) -> Array:
        if k > scores.shape[1]:
            raise ValueError(f"top_k = {k}, but there are {scores.shape[1]} scores a row")
        # A stable sort of the negated scores: ties keep the order of the classes, at every call size.
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        if output.datatype == "BYTES":
            return _label(labels, order)
        if output.datatype == "INT64":
            return order.astype(np.int64)
        return np.take_along_axis(scores, order, axis=1)

    return best


def _label(labels: Array, index: Array) -> Array:
    if index.size and int(index.max()) >= len(labels):
        raise ValueError(f"class {int(index.max())} has no label: {len(labels)} are declared")
    return labels[index]
