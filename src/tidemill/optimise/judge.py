"""Which candidates are worth having: those that keep the metric and gain more than the measurement may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tidemill.optimise import cpu
from tidemill.optimise.options import Candidate, Spread, Verdict

__all__ = ["best_of", "gains_and_losses", "verdict", "why_slow"]

# A file that is a twentieth smaller is smaller.
_SMALLER = 0.95


def gains_and_losses(
    batch: Spread, single: Spread, size: float, batch_noise: float, single_noise: float
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """What is better and what is worse than the parent beyond the noise, in words, and whether it is slower: three
    quarters of the rounds must say so.
    """
    gains, losses = [], []
    for spread, noise, what in ((batch, batch_noise, "rows/s"), (single, single_noise, "speed at one row")):
        if spread.low > 1.0 + noise:
            gains.append(f"{spread.middle:.2f}x {what}")
        elif spread.high < 1.0 - noise:
            losses.append(f"{spread.middle:.2f}x {what}")
    slower = bool(losses)
    if size < _SMALLER:
        gains.append(f"{size:.2f}x size")
    elif size > 1.0 / _SMALLER:
        losses.append(f"{size:.2f}x size")
    return tuple(gains), tuple(losses), slower


def verdict(drop: float, max_drop: float, gains: Sequence[str]) -> Verdict:
    """A drop that is no number (a candidate that answers NaN, or not at all) keeps nothing."""
    if math.isnan(drop) or drop > max_drop + 1e-12:
        return "metric"
    return "offered" if gains else "no gain"


def best_of(candidates: Sequence[Candidate]) -> tuple[Candidate | None, str]:
    """Of those offered the one with the greatest product of both speeds (so that what is lost at one row counts as
    much as what is won in large calls), if it is greater than the parent's; and the reason for it or for none.
    """
    offered = [c for c in candidates if c.verdict == "offered"]
    if offered:
        best = max(offered, key=_speed)
        if _speed(best) > 1.0 or not best.slower:
            but = f", but {', '.join(best.losses)}" if best.losses else ""
            return best, f"{best.name}: {', '.join(best.gains)}{but}"
        smallest = min(offered, key=lambda c: c.size)
        return None, (
            f"all are slower; {smallest.name} has {', '.join(smallest.gains)}, but {', '.join(smallest.losses)}: "
            f"--choose {smallest.name} takes it"
        )
    if not candidates:
        return None, "there is nothing in this model to optimise"
    by = {v: sum(c.verdict == v for c in candidates) for v in ("metric", "no gain")}
    told = [f"{by['metric']} of {len(candidates)} lose too much of the metric"] if by["metric"] else []
    if by["no gain"]:
        told.append(f"{by['no gain']} of {len(candidates)} are neither quicker nor smaller beyond the noise")
    return None, "; ".join(told)


def why_slow(name: str) -> tuple[str, ...]:
    """What this CPU has to do with a form that is slower in large calls, where it has anything to do with it."""
    kind = name.rpartition("-")[2]
    if kind in ("static", "dynamic"):
        if cpu.int8_dot_products():
            has = cpu.int8()
            return (f"int8 is slower here though this CPU has {has}: the layers are too small to pay for scaling",)
        return (f"int8 is slower on this CPU: {cpu.int8()}",)
    if kind == "fp16":
        has = cpu.fp16()
        own = f"though it has {has}" if has else "which has no FP16 arithmetic"
        return (f"FP16 is slower on this CPU, {own}: ONNX Runtime converts to FP32 and back around most operators",)
    return ()


def _speed(one: Candidate) -> float:
    return one.batch.middle * one.single.middle
