"""What values an output had: bounded, mergeable counts, gathered shard by shard and compared between runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.config import Config
from tidemill.rows import Array

__all__ = ["Collector", "Distribution", "bounds", "ks", "merge", "psi"]

K = TypeVar("K", int, str)

# A bucket is the sign, the exponent and the first five bits of the fraction of a float32: 32 to an octave, so that its
# ends differ by 3 % at most, for any value and without asking for a range first.
_SHIFT = 18
_HALF = 1 << (31 - _SHIFT)
_BUCKETS = 2 * _HALF
# Texts are counted by name while they are few and short, as labels are; free text is nobody's distribution.
_TEXTS = 64
_TEXT_LENGTH = 64
# Vectors up to this length are told element by element.
_ELEMENTS = 16
_BINS = 10


class Distribution(Config, frozen=True, kw_only=True):
    """The values of one output, or of one element of a vector.

    `nulls` counts nulls and NaN among the `cells`. `buckets` counts numbers by ordered bucket (`bounds` tells where
    one lies), `texts` counts texts and booleans by value, and `others` those that are too long or too many to name.
    """

    cells: int = 0
    nulls: int = 0
    buckets: dict[Annotated[int, msgspec.Meta(ge=0, lt=_BUCKETS)], int] = msgspec.field(default_factory=dict)
    texts: dict[str, int] = msgspec.field(default_factory=dict)
    others: int = 0

    @property
    def null_rate(self) -> float:
        """The share of cells without a value; 0 where there are no cells."""
        return self.nulls / self.cells if self.cells else 0.0

    def quantile(self, q: float) -> float | None:
        """The number below which the share `q` of all numbers lies, to 3 %; None where there are no numbers."""
        keys = sorted(self.buckets)
        counts = np.array([self.buckets[k] for k in keys])
        if not len(counts) or counts.sum() == 0:
            return None
        place = int(np.searchsorted(np.cumsum(counts), q * counts.sum()))
        low, high = bounds(keys[min(place, len(keys) - 1)])
        return low if math.isinf(high) or math.isinf(low) else (low + high) / 2


def bounds(bucket: int) -> tuple[float, float]:
    """The ends of a bucket: the least number that may be in it, and the next one's."""
    if bucket >= _HALF:
        return _float(bucket - _HALF), _float(bucket - _HALF + 1)
    return -_float(_HALF - bucket), -_float(_HALF - 1 - bucket)


def _float(bits: int) -> float:
    """The float32 whose upper bits these are; what lies beyond the infinite is infinite."""
    value = float(np.array([bits << _SHIFT], np.uint32).view(np.float32)[0])
    return value if value == value else math.inf


class Collector:
    """Counts the values of the named columns of the batches it is shown. One thread at a time."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._numbers: dict[str, Array] = {}
        self._texts: dict[str, dict[str, int]] = {}
        self._seen: dict[str, list[int]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch."""
        for name in self._names:
            self._column(name, batch.column(name))

    def result(self) -> dict[str, Distribution]:
        """What was counted, by output; elements of short vectors as `name[0]`, `name[1]`, …"""
        found = {}
        for name, (cells, nulls) in self._seen.items():
            counts = self._numbers.get(name)
            buckets: dict[int, int] = {}
            if counts is not None:
                # Those of negative numbers lie in the upper half, the greatest first.
                ordered = np.concatenate((counts[: _HALF - 1 : -1], counts[:_HALF]))
                buckets = {int(k): int(ordered[k]) for k in np.flatnonzero(ordered)}
            texts, others = _named(self._texts.get(name, {}))
            found[name] = Distribution(cells=cells, nulls=nulls, buckets=buckets, texts=texts, others=others)
        return found

    def _column(self, name: str, column: pa.Array) -> None:
        width = column.type.list_size if pa.types.is_fixed_size_list(column.type) else None
        nested = False
        while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            nested = nested or pa.types.is_list(column.type) or pa.types.is_nested(column.type.value_type)
            column = column.flatten()
        if width is None or nested or width > _ELEMENTS:
            self._count(name, column)
        elif _numeric(column) and not column.null_count:
            values = _values(column).reshape(-1, width)
            for element in range(width):
                self._count_numbers(f"{name}[{element}]", values[:, element], 0)
        else:
            for element in range(width):
                self._count(f"{name}[{element}]", column[element::width])

    def _count(self, name: str, column: pa.Array) -> None:
        if _numeric(column):
            present = column.drop_null() if column.null_count else column
            self._count_numbers(name, _values(present), column.null_count)
        else:
            self._see(name, len(column), column.null_count)
            self._count_texts(name, column)

    def _count_numbers(self, name: str, present: Array, nulls: int) -> None:
        with np.errstate(over="ignore"):
            values = present.astype(np.float32) + np.float32(0)  # and -0 is 0
        missing = np.isnan(values)
        if missing.any():
            values = values[~missing]
        self._see(name, len(present) + nulls, len(present) + nulls - len(values))
        counts = np.bincount(values.view(np.uint32) >> _SHIFT, minlength=_BUCKETS)
        known = self._numbers.setdefault(name, counts)
        if known is not counts:
            known += counts

    def _see(self, name: str, cells: int, nulls: int) -> None:
        seen = self._seen.setdefault(name, [0, 0])
        seen[0] += cells
        seen[1] += nulls

    def _count_texts(self, name: str, column: pa.Array) -> None:
        texts = self._texts.setdefault(name, {})
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.string())
        values = column.drop_null()
        if len(texts) > _TEXTS:  # no labels: whatever comes is one of the others
            texts[""] = texts.get("", 0) + len(values)
            return
        for one in pc.value_counts(values):
            value = one["values"].as_py()
            word = value if isinstance(value, str) and len(value) <= _TEXT_LENGTH else ""
            texts[word] = texts.get(word, 0) + one["counts"].as_py()


def _values(column: pa.Array) -> Array:
    """Numbers without nulls, where they lie. `to_numpy` would do, but it loads pandas where that is installed, which
    takes longer than scoring a million rows.
    """
    dtype = np.dtype(column.type.to_pandas_dtype())
    if len(column) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)


def _numeric(column: pa.Array) -> bool:
    return bool(pa.types.is_floating(column.type) or pa.types.is_integer(column.type))


def _named(texts: Mapping[str, int]) -> tuple[dict[str, int], int]:
    if len(texts) > _TEXTS:
        return {}, sum(texts.values())
    return {k: v for k, v in sorted(texts.items()) if k}, texts.get("", 0)


def merge(parts: Iterable[Mapping[str, Distribution]]) -> dict[str, Distribution]:
    """The distributions of all parts together, whatever their order."""
    merged: dict[str, Distribution] = {}
    for part in parts:
        for name, one in part.items():
            merged[name] = _added(merged[name], one) if name in merged else one
    # Too many texts are told of all parts at the end: on the way it would depend on which came first.
    return {name: one if len(one.texts) <= _TEXTS else _unnamed(one) for name, one in merged.items()}


def _added(a: Distribution, b: Distribution) -> Distribution:
    return Distribution(
        cells=a.cells + b.cells,
        nulls=a.nulls + b.nulls,
        buckets=_sum(a.buckets, b.buckets),
        texts=_sum(a.texts, b.texts),
        others=a.others + b.others,
    )


def _unnamed(one: Distribution) -> Distribution:
    return msgspec.structs.replace(one, texts={}, others=one.others + sum(one.texts.values()))


def _sum(a: Mapping[K, int], b: Mapping[K, int]) -> dict[K, int]:
    return {k: a.get(k, 0) + b.get(k, 0) for k in sorted(a.keys() | b.keys())}


def psi(before: Distribution, now: Distribution) -> float:
    """Population stability index: the sum of (b - a) ln(b / a) over ten bins, each about a tenth of `before`, or over
    the texts. 0 where both are alike; 0.1 is commonly called a small shift and 0.25 a large one.
    """
    a, b = _aligned(before, now)
    if before.buckets or now.buckets:
        a, b = _binned(a, b)
    if a.sum() == 0 or b.sum() == 0:
        return 0.0 if a.sum() == b.sum() else math.inf
    a, b = a[a + b > 0], b[a + b > 0]
    # Half a count in each bin, so that an empty one is a shift and no infinity.
    p, q = (a + 0.5) / (a + 0.5).sum(), (b + 0.5) / (b + 0.5).sum()
    return float(np.sum((q - p) * np.log(q / p)))


def ks(before: Distribution, now: Distribution) -> float:
    """Kolmogorov-Smirnov distance: the most that the shares of numbers up to a bound differ, 0 to 1, over the bounds
    of the buckets. For texts it is the total variation distance, half the sum of the differences.
    """
    a, b = _aligned(before, now)
    if a.sum() == 0 or b.sum() == 0:
        return 0.0 if a.sum() == b.sum() else 1.0
    p, q = a / a.sum(), b / b.sum()
    if before.buckets or now.buckets:
        return float(np.max(np.abs(np.cumsum(p) - np.cumsum(q))))
    return float(np.abs(p - q).sum() / 2)


def _aligned(before: Distribution, now: Distribution) -> tuple[Array, Array]:
    """The counts of both, over the buckets or texts of either; the others are one more text."""
    if before.buckets or now.buckets:
        keys = sorted(before.buckets.keys() | now.buckets.keys())
        pair = [np.array([d.buckets.get(k, 0) for k in keys], float) for d in (before, now)]
    else:
        words = sorted(before.texts.keys() | now.texts.keys())
        pair = [np.array([*(d.texts.get(w, 0) for w in words), d.others], float) for d in (before, now)]
    return pair[0], pair[1]


def _binned(a: Array, b: Array) -> tuple[Array, Array]:
    """Neighbouring buckets gathered until a bin holds a tenth of `a` (or of `b`, where `a` has nothing)."""
    basis = a if a.sum() else b
    if basis.sum() == 0:
        return a, b
    # The bin of a bucket is told by the middle of its share, so that one large bucket is one bin.
    middle = (np.cumsum(basis) - basis / 2) / basis.sum()
    bins = np.minimum((middle * _BINS).astype(int), _BINS - 1)
    return np.bincount(bins, a, _BINS), np.bincount(bins, b, _BINS)
