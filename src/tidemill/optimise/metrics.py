"""How good a package's answers are, against the truth in a column: which output is read, and the figure itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tidemill.errors import ConfigError, InputError, listing
from tidemill.model.manifest import Manifest
from tidemill.model.signature import Output
from tidemill.optimise.options import MetricName
from tidemill.rows import Array

__all__ = ["HIGHER", "Metric", "metric_for"]

# Whether more is better.
HIGHER: Mapping[MetricName, bool] = {
    "accuracy": True,
    "roc_auc": True,
    "log_loss": False,
    "rmse": False,
    "mae": False,
    "r2": True,
}
_OF_CLASSES = ("accuracy", "roc_auc", "log_loss")
# What a probability is taken for that FP32 cannot tell from 0 or 1.
_LEAST = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True)
class Metric:
    """`score` takes a package's outputs by name, of the rows whose truth it was made with."""

    name: MetricName
    output: str
    score: Callable[[Mapping[str, Array]], float]

    def drop(self, before: float, after: float) -> float:
        """How much worse `after` is, in the metric's own units."""
        return before - after if HIGHER[self.name] else after - before


def metric_for(name: MetricName, manifest: Manifest, truth: pa.Array, target: str, output: str | None) -> Metric:
    """The metric over the output that it can read: the one named, else the only one that fits.

    Raises ConfigError for a metric that does not fit the package, InputError for a truth that does not.
    """
    outputs = _named(manifest, output)
    if name in _OF_CLASSES:
        if manifest.task == "regression":
            raise ConfigError(_unfit(name, manifest, "classes", ("rmse", "mae", "r2")))
        return _of_classes(name, manifest, outputs, truth, target, output)
    values = [o for o in outputs if o.type.is_float and o.source is None and o.shape in ((-1,), (-1, 1))]
    if output is None and manifest.task == "classification":
        values = []
    if len(values) != 1:
        if len(values) > 1:
            raise ConfigError(f"--output: say which of {listing(o.name for o in values)} {name} is of")
        raise ConfigError(_unfit(name, manifest, "one number a row", _OF_CLASSES))
    return Metric(name, values[0].name, _of_values(name, values[0].name, _numbers(truth, target), target))


def _named(manifest: Manifest, output: str | None) -> Sequence[Output]:
    found = [o for o in manifest.outputs if output in (None, o.name)]
    if not found:
        raise ConfigError(f"--output {output}: no such output; it has {listing(o.name for o in manifest.outputs)}")
    return found


def _unfit(name: str, manifest: Manifest, wanted: str, others: Sequence[str]) -> str:
    shown = ", ".join(f"{o.name} {o.datatype}{list(o.shape)}" for o in manifest.outputs)
    return (
        f"--metric {name} is of {wanted}, which {manifest.name} ({manifest.task}) does not give: its outputs are "
        f"{shown}; use {' or '.join(others)}, or name the output with --output"
    )


def _of_classes(
    name: MetricName, manifest: Manifest, outputs: Sequence[Output], truth: pa.Array, target: str, output: str | None
) -> Metric:
    scores = [o for o in outputs if o.type.is_float and o.source is None and _classes(o)]
    labels = [
        o for o in outputs if not o.type.is_float and o.shape == (-1,) and o.threshold is None and o.top_k is None
    ]
    known = next((o.labels for o in manifest.outputs if len(o.labels) > 1), ())
    if name == "accuracy" and labels and (len(labels) == 1 or any(o.name == "label" for o in labels)):
        label = next((o for o in labels if o.name == "label"), labels[0])
        return Metric(name, label.name, _agreement(label.name, truth, target, known))
    if len(scores) != 1:
        if len(scores) > 1:
            raise ConfigError(f"--output: say which of {listing(o.name for o in scores)} {name} is of")
        raise ConfigError(_unfit(name, manifest, "classes", ("rmse", "mae", "r2")))
    classes = _classes(scores[0])
    index = _indices(truth, target, classes)
    score = {"accuracy": _accuracy, "roc_auc": _roc_auc, "log_loss": _log_loss}[name]
    if name == "roc_auc" and len(np.unique(index)) < 2:
        raise InputError(f"{target} holds one class only ({classes[index[0]]}), of which roc_auc tells nothing")
    named = scores[0].name
    return Metric(name, named, lambda given: score(_probabilities(given[named]), index))


def _classes(output: Output) -> tuple[str, ...]:
    """The classes that a score output tells of, () if it is none. One score a row is that of the second of two."""
    if len(output.shape) == 2 and output.shape[1] > 1:
        return output.labels or tuple(map(str, range(output.shape[1])))
    if output.shape in ((-1,), (-1, 1)):
        return output.labels if len(output.labels) == 2 else ("0", "1")
    return ()


def _probabilities(scores: Array) -> Array:
    scores = scores.astype(np.float64)
    if scores.ndim == 2 and scores.shape[1] > 1:
        return scores
    return np.column_stack([1.0 - scores.reshape(-1), scores.reshape(-1)])


def _texts(truth: pa.Array) -> list[list[str]]:
    """The truth as text, in each form that classes may be told in."""
    values = truth.to_pylist()
    if pa.types.is_boolean(truth.type):
        return [[form[bool(v)] for v in values] for form in (("0", "1"), ("False", "True"), ("false", "true"))]
    return [[str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in values]]


def _indices(truth: pa.Array, target: str, classes: Sequence[str]) -> Array:
    places = {name: i for i, name in enumerate(classes)}
    forms = _texts(truth)
    for form in forms:
        if all(v in places for v in form):
            return np.array([places[v] for v in form])
    strange = sorted({v for v in forms[0] if v not in places})
    raise InputError(
        f"{target} holds {listing(map(repr, strange))}, and the model's classes are {listing(map(repr, classes))}",
        field=target,
    )


def _agreement(name: str, truth: pa.Array, target: str, known: Sequence[str]) -> Callable[[Mapping[str, Array]], float]:
    """The share of rows whose label is the truth, both as text."""
    if known:
        _indices(truth, target, known)

    def score(given: Mapping[str, Array]) -> float:
        labels = [v.decode() if isinstance(v, bytes) else str(v) for v in given[name].tolist()]
        forms = _texts(truth)
        if given[name].dtype == np.bool_:
            labels = [label.lower() for label in labels]
            forms = [[v.lower() for v in form] for form in forms]
        told = set(labels)
        form = max(forms, key=lambda one: len(told & set(one)))
        if not told & set(form):
            raise InputError(
                f"{target} holds {listing(sorted(set(form)))}, and {name} says {listing(sorted(told))}: none of them",
                field=target,
            )
        return float(np.mean([a == b for a, b in zip(labels, form, strict=True)]))

    return score


def _accuracy(probabilities: Array, index: Array) -> float:
    return float((probabilities.argmax(axis=1) == index).mean())


def _log_loss(probabilities: Array, index: Array) -> float:
    likely = np.clip(probabilities, _LEAST, 1.0)
    likely /= likely.sum(axis=1, keepdims=True)
    return float(-np.log(likely[np.arange(len(index)), index]).mean())


def _roc_auc(probabilities: Array, index: Array) -> float:
    """Of two classes the area itself, of more the mean over classes, each against all others."""
    if probabilities.shape[1] == 2:
        return _area(probabilities[:, 1], index == 1)
    return float(np.mean([_area(probabilities[:, c], index == c) for c in np.unique(index)]))


def _area(scores: Array, positive: Array) -> float:
    """The chance that a positive row scores above a negative one; equal scores count half."""
    if not np.isfinite(scores).all():
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    n = int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def _numbers(truth: pa.Array, target: str) -> Array:
    try:
        values = np.asarray(truth.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    except pa.ArrowException:
        raise InputError(f"{target} is {truth.type}, and a value's truth is a number", field=target) from None
    if not np.isfinite(values).all():
        raise InputError(f"{target} holds infinities, by which nothing can be judged", field=target)
    return values


def _of_values(name: str, output: str, truth: Array, target: str) -> Callable[[Mapping[str, Array]], float]:
    variance = float(((truth - truth.mean()) ** 2).mean())
    if name == "r2" and not variance:
        raise InputError(f"{target} holds one value only ({truth[0]:g}), of which r2 tells nothing", field=target)

    def score(given: Mapping[str, Array]) -> float:
        apart = given[output].astype(np.float64).reshape(-1) - truth
        if name == "mae":
            return float(np.abs(apart).mean())
        square = float((apart**2).mean())
        return square**0.5 if name == "rmse" else 1.0 - square / variance

    return score
