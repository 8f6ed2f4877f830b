"""Are two answers the same: bit for bit, or within the tolerance that the package declares for an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.model.signature import Output
from tidemill.rows import Array

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`rows` (n,) BOOL: where every output agrees. `worst`: the largest difference of two finite floats.
    `example` tells the first difference in words, empty when all agree.
    """

    rows: Array
    worst: float
    example: str

    @property
    def equal(self) -> bool:
        return not self.example


def compare(
    outputs: Sequence[Output],
    expected: Mapping[str, Array],
    found: Mapping[str, Array],
    *,
    over_json: bool = False,
) -> Comparison:
    """Compare columns of shape (n, …) output by output. Two NaN are the same, whatever their bits.

    `over_json`: NaN in `found` may stand for NaN or an infinity, none of which JSON can carry.
    """
    n = len(next(iter(expected.values())))
    agree = np.ones(n, np.bool_)
    worst = 0.0
    example = ""
    for output in outputs:
        a, b = expected[output.name], found[output.name]
        if a.shape != b.shape or a.dtype != b.dtype:
            text = f"{output.name}: {b.dtype}{list(b.shape)}, expected {a.dtype}{list(a.shape)}"
            return Comparison(np.zeros(n, np.bool_), worst, text)
        if output.type.is_float:
            same, off = _floats(a, b, output.tolerance, over_json)
            worst = max(worst, off)
        else:
            same = np.asarray(a == b, np.bool_)
        if not same.all() and not example:
            place = tuple(np.argwhere(~same)[0].tolist())
            example = f"{output.name}{list(place)}: {b[place]!s}, expected {a[place]!s}"
        agree &= same.all(axis=tuple(range(1, same.ndim)))
    return Comparison(agree, worst, example)


def _floats(a: Array, b: Array, tolerance: float, over_json: bool) -> tuple[Array, float]:
    bits = np.dtype(f"u{a.dtype.itemsize}")
    same = (np.ascontiguousarray(a).view(bits) == np.ascontiguousarray(b).view(bits)) | (np.isnan(a) & np.isnan(b))
    if over_json:
        same |= ~np.isfinite(a) & np.isnan(b)
    if same.all():
        return same, 0.0
    finite = np.isfinite(a) & np.isfinite(b)
    off = np.zeros(a.shape, np.float64)
    np.subtract(a, b, out=off, where=finite, dtype=np.float64)
    np.abs(off, out=off)
    if tolerance:
        same |= finite & (off <= tolerance)
    return same, float(off.max(initial=0.0))
