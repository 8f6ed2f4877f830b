"""What a model costs here: seconds by call size, measured on this machine through the path."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.model.samples import read_samples
from tidemill.model.signature import Input
from tidemill.prediction.live import Live
from tidemill.rows import Array, Rows

__all__ = ["SIZES", "Profile", "example_rows", "measure"]

SIZES = (1, 4, 16, 64, 256, 1024, 4096)
# A call takes in proportion to its rows if it takes so much of as many times longer as it has more of them.
PROPORTIONAL = 0.8


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds of one undisturbed call at each size (rows), ascending."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def cost(self, rows: int) -> float:
        """Expected seconds of a call of that many rows: linear between the measured sizes and beyond them."""
        sizes, seconds = self.sizes, self.seconds
        if rows <= sizes[0] or len(sizes) == 1:
            return seconds[0] * max(1.0, rows / sizes[0])
        i = min(bisect_left(sizes, rows), len(sizes) - 1)
        low, high = sizes[i - 1], sizes[i]
        slope = max(0.0, seconds[i] - seconds[i - 1]) / (high - low)
        return seconds[i - 1] + slope * (rows - low)

    @property
    def best_rows(self) -> int:
        """The smallest call size within 3 % of the best rows per second."""
        rates = [n / s for n, s in zip(self.sizes, self.seconds, strict=True)]
        return next(n for n, r in zip(self.sizes, rates, strict=True) if r >= 0.97 * max(rates))

    def rows_within(self, seconds: float) -> int:
        """The most rows whose call is expected to take at most that long; at least 1."""
        low, high = 1, 1 << 20
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.cost(middle) <= seconds else (low, middle - 1)
        return low


def measure(live: Live, sizes: Sequence[int] = SIZES, budget: float = 1.0, longest: float = math.inf) -> Profile:
    """Call the model at each size until the budget of seconds is spent; this also warms it up.

    Once calls take in proportion to their rows, those that would take longer than `longest` seconds are not made:
    they would tell nothing that is not known.

    The first call of a size is not counted. Raises what a model does that cannot answer its own samples only
    as problems in the result: a model that fails is slow or quick, never an error here.
    """
    rows = example_rows(live, 64)
    found: list[tuple[int, float]] = []
    started = time.perf_counter()
    for size in sizes:
        call = rows.take(np.arange(size) % rows.n)
        live.predict(call)
        taken: list[float] = []
        while len(taken) < 3 or (len(taken) < 25 and sum(taken) < budget / (4 * len(sizes))):
            before = time.perf_counter()
            live.predict(call)
            taken.append(time.perf_counter() - before)
            if time.perf_counter() - started > budget:
                break
        # What else runs on the machine only ever adds: the lower quartile is the model's own.
        found.append((size, float(np.quantile(taken, 0.25))))
        if time.perf_counter() - started > budget or _foreseen(found, sizes) > longest:
            break
    return Profile(tuple(n for n, _ in found), tuple(s for _, s in found))


def _foreseen(found: Sequence[tuple[int, float]], sizes: Sequence[int]) -> float:
    """Seconds that a call of the next size will take, where the last two tell: else 0."""
    if len(found) < 2 or len(found) == len(sizes):
        return 0.0
    (few, less), (many, more) = found[-2:]
    return more * sizes[len(found)] / many if more / less >= PROPORTIONAL * many / few else 0.0


def example_rows(live: Live, most: int) -> Rows:
    """Up to `most` rows that the model accepts: its samples, or without them values made from the signature."""
    samples = read_samples(live.package)
    if samples is not None and samples[0].num_rows:
        return live.intake.from_arrow(samples[0].slice(0, most))
    return Rows({i.name: _made(i, 1) for i in live.package.manifest.inputs}, 1)


def _made(one: Input, n: int) -> Array:
    shape = (n, *(1 if d < 0 else d for d in one.shape[1:]))
    if one.columns:
        values = [_within(c.minimum, c.maximum) for c in one.columns]
        return np.array([values] * n, one.type.dtype)
    if one.categories:
        value: object = one.categories[0]
    elif one.datatype == "BYTES":
        value = b"" if one.binary else ""
    else:
        value = _within(one.minimum, one.maximum)
    return np.full(shape, value, one.type.dtype)


def _within(minimum: float | None, maximum: float | None) -> float:
    low = -np.inf if minimum is None else minimum
    high = np.inf if maximum is None else maximum
    return float(min(max(0.0, low), high))
