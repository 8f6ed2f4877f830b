"""The gate before publishing: a run that is unlike the last one of its job is held until a person decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from tidemill.batch.distribution import Distribution, ks, psi
from tidemill.config import Config

__all__ = ["Check", "Figures", "Gate", "judge"]

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
# Told of what is infinitely unlike: JSON has no infinity, and a limit has a number.
_UNLIKE = 1e6
Limit = Annotated[float, msgspec.Meta(ge=0, le=_UNLIKE)]


class Gate(Config, frozen=True, kw_only=True):
    """What must hold of a run before its output is published; what is left out is not asked.

    `min_rows` is of rows read. `max_change` is the share by which they may be more or fewer than in the last run that
    was published. `max_null_rate` is the share of cells of an output that may be null or NaN: one number for all, or a
    table by output. `max_error_rate` is the share of rows that may be dead letters. `max_psi` and `max_ks` are how far
    the values of each output may have moved since the last run: population stability index, and Kolmogorov-Smirnov
    distance.
    """

    min_rows: Annotated[int, msgspec.Meta(ge=0)] | None = None
    max_change: Limit | None = None
    max_null_rate: Share | dict[str, Share] | None = None
    max_error_rate: Share | None = None
    max_psi: Limit | None = None
    max_ks: Share | None = None


class Figures(Config, frozen=True, kw_only=True):
    """What a gate looks at: rows read and dead, and the distribution of each output."""

    read: int
    dead: int
    outputs: dict[str, Distribution]


class Check(Config, frozen=True, kw_only=True):
    """One thing that the gate asked: what was found, what is allowed, and a sentence."""

    name: str
    passed: bool
    found: float
    limit: float
    told: str


def judge(gate: Gate, now: Figures, before: Figures | None) -> tuple[Check, ...]:
    """Every check of this run, against the last run of the job where there is one: a first run has nothing to be
    compared with, and only `min_rows`, `max_null_rate` and `max_error_rate` are asked of it.
    """
    return tuple(_checks(gate, now, before))


def _checks(gate: Gate, now: Figures, before: Figures | None) -> Iterator[Check]:
    if gate.min_rows is not None:
        yield _check("min_rows", now.read >= gate.min_rows, now.read, gate.min_rows, f"{now.read:,} rows were read")
    if gate.max_error_rate is not None:
        rate = now.dead / now.read if now.read else 0.0
        told = f"{now.dead:,} of {now.read:,} rows failed"
        yield _check("max_error_rate", rate <= gate.max_error_rate, rate, gate.max_error_rate, told)
    yield from _nulls(gate, now.outputs)
    if before is None:
        return
    if gate.max_change is not None:
        change = abs(now.read - before.read) / max(before.read, 1)
        told = f"{now.read:,} rows were read, {before.read:,} in the last run"
        yield _check("max_change", change <= gate.max_change, change, gate.max_change, told)
    for name, measure, limit in (("max_psi", psi, gate.max_psi), ("max_ks", ks, gate.max_ks)):
        if limit is None:
            continue
        for output in sorted(now.outputs.keys() & before.outputs.keys()):
            moved = measure(before.outputs[output], now.outputs[output])
            told = f"the values of {output} moved by {moved:.3g} since the last run"
            yield _check(f"{name} of {output}", moved <= limit, moved, limit, told)


def _nulls(gate: Gate, outputs: Mapping[str, Distribution]) -> Iterator[Check]:
    limits = gate.max_null_rate
    if limits is None:
        return
    for output, one in outputs.items():
        limit = _limit(limits, output)
        if limit is not None:
            told = f"{one.nulls:,} of {one.cells:,} cells of {output} are null"
            yield _check(f"max_null_rate of {output}", one.null_rate <= limit, one.null_rate, limit, told)


def _limit(limits: float | Mapping[str, float], output: str) -> float | None:
    """Elements of a vector (`scores[3]`) are judged by the limit of their output."""
    if not isinstance(limits, Mapping):
        return limits
    return limits.get(output, limits.get(output.rpartition("[")[0]))


def _check(name: str, passed: bool, found: float, limit: float, told: str) -> Check:
    return Check(
        name=name,
        passed=passed,
        found=round(min(float(found), _UNLIKE), 6),
        limit=float(limit),
        told=f"{told} ({name.partition(' ')[0]} = {limit:g})",
    )
