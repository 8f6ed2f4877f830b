"""How quick the forms of a model are beside each other: in interleaved rounds, the parent against itself among them."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tidemill.batch.calls import CALL_ROWS
from tidemill.optimise.options import Spread
from tidemill.prediction.live import Live
from tidemill.rows import Rows

__all__ = ["ROUNDS", "Timing", "noise", "ratio", "time_all"]

ROUNDS = 9
_LEAST_NOISE = 0.02
_BATCH_S = 0.04
_SINGLES = 40
_SEED = 5


@dataclass(slots=True)
class Timing:
    """Of one contestant, by round: rows/s in calls of up to 1,024, and seconds of calls of one row."""

    rates: list[float] = field(default_factory=list)
    singles: list[list[float]] = field(default_factory=list)

    @property
    def rows_per_second(self) -> float:
        return float(np.median(self.rates))

    def single_ms(self, share: float) -> float:
        """The milliseconds within which this share of the calls of one row is answered."""
        return float(np.quantile(np.concatenate(self.singles), share)) * 1e3

    @property
    def single_rates(self) -> list[float]:
        """Calls of one row a second, the median of each round."""
        return [1.0 / float(np.median(one)) for one in self.singles]


def time_all(lives: Mapping[str, Live], rows: Rows) -> dict[str, Timing]:
    """Time everyone through the path on the same rows; in each round all have their turn, in another order.

    Whatever else runs on the machine hits neighbours in a round alike, so that ratios within a round are compared.
    """
    found = {name: Timing() for name in lives}
    calls = _calls(next(iter(lives.values())), rows)
    singles = [rows.slice(i % rows.n, i % rows.n + 1) for i in range(_SINGLES)]
    for live in lives.values():
        _batch(live, calls)
        _seconds(live, singles)
    random = np.random.default_rng(_SEED)
    names = list(lives)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for i in random.permutation(len(names)):
                found[names[i]].rates.append(_batch(lives[names[i]], calls))
            for i in random.permutation(len(names)):
                found[names[i]].singles.append(_seconds(lives[names[i]], singles))
    finally:
        if collecting:
            gc.enable()
    return found


def ratio(of: Sequence[float], to: Sequence[float]) -> Spread:
    """How many times as quick `of` is as `to`, round by round."""
    low, middle, high = np.quantile(np.array(of) / np.array(to), [0.25, 0.5, 0.75])
    return Spread(low=float(low), middle=float(middle), high=float(high))


def noise(*spreads: Spread) -> float:
    """How far a ratio may be from one though both sides are the same; never less than 2 %."""
    return max([_LEAST_NOISE, *(abs(x - 1.0) for s in spreads for x in (s.low, s.high))])


def _calls(live: Live, rows: Rows) -> list[Rows]:
    """Calls of as many rows as there are, up to 1,024, that take the first contestant some hundredths of a second."""
    one = rows.slice(0, CALL_ROWS)
    live.predict(one)
    began = time.perf_counter()
    live.predict(one)
    count = max(1, min(64, round(_BATCH_S / max(time.perf_counter() - began, 1e-6))))
    whole = max(1, rows.n // CALL_ROWS)
    return [rows.slice((i % whole) * CALL_ROWS, (i % whole + 1) * CALL_ROWS) for i in range(count)]


def _batch(live: Live, calls: Sequence[Rows]) -> float:
    """Rows/s by the quickest tenth of calls of equal size. Whatever else runs on the machine only ever adds, and to
    longer calls more often, which would flatter every form that is quicker.
    """
    return calls[0].n / float(np.quantile(_seconds(live, calls), 0.1))


def _seconds(live: Live, calls: Sequence[Rows]) -> list[float]:
    taken = []
    for call in calls:
        began = time.perf_counter()
        live.predict(call)
        taken.append(time.perf_counter() - began)
    return taken
