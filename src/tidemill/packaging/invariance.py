"""Does the call size change an answer? Measured by running the same rows in calls of several sizes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from tidemill.model.package import Package
from tidemill.packaging.samples import Samples
from tidemill.prediction.live import Live
from tidemill.rows import Array, Rows

__all__ = ["SAFETY", "Invariance", "largest_call", "measure_invariance"]

# The tolerance written is this many times the greatest difference seen: other rows and sizes may differ somewhat more.
SAFETY = 4.0
# Beyond this share of an output's own scale it is no rounding: the rows depend on each other.
_ROUNDING = 1e-4
_SIZES = ((1, 64), (7, 256), (64, 1000))
_WHOLE = 1000
_CALLS = (64, 16, 4, 1)
_BUDGET_S = 10.0


@dataclass(frozen=True, slots=True)
class Invariance:
    """`differences` and `tolerances` by float output; `independent` False where answers depend on their call."""

    differences: dict[str, float] = field(default_factory=dict)
    tolerances: dict[str, float] = field(default_factory=dict)
    independent: bool = True
    notes: tuple[str, ...] = ()


def largest_call(live: Live, samples: Samples | None) -> tuple[int | None, str]:
    """The most rows that the model takes in a call where it does not take 64 of those it answers alone, and what it
    said; else None. The path answers such calls by halves, so that all is right and nothing is quick.
    """
    if samples is None or samples.rows.n < 2 or not live.divisible or live.call_rows == 1:
        return None, ""
    once = Package(live.package.directory, msgspec.structs.replace(live.package.manifest, repeatable=False))
    said = ""
    for size in _CALLS:
        failed = Live(once, live.runtime).predict(samples.rows.slice(0, size)).problems
        if not failed:
            return (size, said) if said else (None, "")
        said = said or failed[0].message
    return None, ""


def measure_invariance(live: Live, samples: Samples | None) -> Invariance:
    """Run up to 1,000 rows whole and in calls of 1, 7 and 64, and compare the answers."""
    if samples is None or not samples.rows.n:
        return Invariance(notes=("call sizes were not compared: no rows to try (give a table with --like)",))
    if not live.divisible or live.call_rows == 1:
        return Invariance()
    rows = samples.rows.take(np.arange(_WHOLE) % samples.rows.n)
    started = time.monotonic()
    whole = live.predict(rows).outputs
    floats = [o.name for o in live.package.manifest.outputs if o.type.is_float]
    differences, others_differ = dict.fromkeys(floats, 0.0), set[str]()
    _note(live.predict(rows).outputs, whole, differences, others_differ)
    if not _judge(differences, others_differ, whole, []).independent:
        apart = ", ".join(sorted({*others_differ, *(n for n, d in differences.items() if d)}))
        why = f"the same call gives other answers when it is repeated ({apart}), so that call sizes were not compared"
        return Invariance(differences, notes=(why,))
    notes: list[str] = []
    for size, upto in _SIZES:
        result = Live(live.package, live.runtime, call_rows=size).predict(rows.slice(0, upto), started + _BUDGET_S)
        if result.problems:
            first = result.problems[0]
            why = "the model is too slow to try them all" if first.code == "late" else first.message
            notes.append(f"calls of {size} rows were not compared: {why}")
            continue
        _note(result.outputs, whole.slice(0, upto), differences, others_differ)
    return _judge(differences, others_differ, whole, notes)


def _note(part: Rows, whole: Rows, differences: dict[str, float], others_differ: set[str]) -> None:
    for name, a in part.columns.items():
        b = whole[name]
        if name in differences:
            differences[name] = max(differences[name], _apart(a, b))
        elif not np.array_equal(a, b):
            others_differ.add(name)


def _apart(a: Array, b: Array) -> float:
    if a.tobytes() == b.tobytes():
        return 0.0
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return math.inf
    with np.errstate(invalid="ignore"):
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(np.nanmax(apart, initial=0.0))


def _judge(differences: Mapping[str, float], others_differ: set[str], whole: Rows, notes: list[str]) -> Invariance:
    tolerances: dict[str, float] = {}
    dependent = [f"{name} differs" for name in sorted(others_differ)]
    for name, apart in differences.items():
        values = np.abs(whole[name][np.isfinite(whole[name])])
        scale = float(values.max()) if values.size else 1.0
        if apart > _ROUNDING * scale:
            dependent.append(f"{name} differs by {apart:.2g}")
        elif apart > 0:
            tolerances[name] = _rounded_up(SAFETY * apart)
            notes.append(
                f"{name} moves by up to {apart:.2g} with the call size; tolerance {tolerances[name]:g} "
                f"({SAFETY:g} times that) is declared"
            )
    if dependent:
        notes.append(f"the call size changes answers: {', '.join(dependent)}")
        return Invariance(dict(differences), {}, False, tuple(notes))
    return Invariance(dict(differences), tolerances, True, tuple(notes))


def _rounded_up(value: float) -> float:
    """Up to one significant digit."""
    step = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / step) * step:.1g}")
