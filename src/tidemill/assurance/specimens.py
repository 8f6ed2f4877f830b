"""Rows to try a package with: good ones (its samples, or made from the signature) and, one rule at a time, bad ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidemill.model.signature import Column, Input
from tidemill.rows import Array, Rows

__all__ = ["Edit", "apply", "at_limits", "breaking", "missing", "tiled"]

# Nobody's category, and told apart from a real one at a glance in a dead letter or an error.
UNKNOWN = "\N{BLACK QUESTION MARK ORNAMENT} no such category"
SHOWN_CATEGORIES = 100


@dataclass(frozen=True, slots=True)
class Edit:
    """One cell to write: input `input`, cell `cell` of a row (() for a scalar), `value` (None: missing).

    `field` is the name that a problem with this cell carries, `code` its code ("" where the row stays good).
    """

    input: str
    cell: tuple[int, ...]
    value: Any
    field: str
    code: str


def breaking(inputs: Sequence[Input]) -> list[Edit]:
    """Every rule of the signature broken once, each by the smallest step over it."""
    found: list[Edit] = []
    for one, cell, limits, field in _cells(inputs):
        if not limits.nullable:
            found.append(Edit(one.name, cell, None, field, "null"))
        if limits.minimum is not None and (below := _beyond(limits.minimum, one, -1)) is not None:
            found.append(Edit(one.name, cell, below, field, "below_minimum"))
        if limits.maximum is not None and (above := _beyond(limits.maximum, one, +1)) is not None:
            found.append(Edit(one.name, cell, above, field, "above_maximum"))
        if one.categories:
            unknown = UNKNOWN if one.datatype == "BYTES" else _absent(one)
            if unknown is not None:
                found.append(Edit(one.name, cell, unknown, field, "unknown_category"))
    return found


def at_limits(inputs: Sequence[Input]) -> list[Edit]:
    """What the signature only just allows: each bound itself, and each category (the first hundred)."""
    found: list[Edit] = []
    for one, cell, limits, field in _cells(inputs):
        values: list[Any] = list(one.categories[:SHOWN_CATEGORIES])
        if not values:
            info = None if one.type.is_float or one.datatype in ("BYTES", "BOOL") else np.iinfo(one.type.dtype)
            bounds = [b for b in (limits.minimum, limits.maximum) if b is not None]
            values = [b if info is None else int(b) for b in bounds if info is None or _whole(b, info)]
        found += [Edit(one.name, cell, value, field, "") for value in values]
    return found


def missing(inputs: Sequence[Input]) -> list[Edit]:
    """A missing cell wherever the signature allows one."""
    return [Edit(one.name, cell, None, field, "") for one, cell, limits, field in _cells(inputs) if limits.nullable]


def apply(rows: Rows, edits: Sequence[tuple[int, Edit]]) -> Rows:
    """A copy of the rows with each (row, edit) written."""
    columns: dict[str, Array] = dict(rows.columns)
    valid: dict[str, Array] = dict(rows.valid)
    for row, edit in edits:
        array = columns[edit.input]
        if array is rows.columns[edit.input]:
            array = columns[edit.input] = array.copy()
        place = (row, *edit.cell)
        if edit.value is not None:
            array[place] = edit.value
        elif array.dtype.kind in "fO":
            array[place] = np.nan if array.dtype.kind == "f" else None
        if array.dtype.kind in "fO":
            continue
        mask = valid.get(edit.input)
        if mask is None or mask is rows.valid.get(edit.input):
            mask = np.ones(array.shape, np.bool_) if mask is None else mask.copy()
            valid[edit.input] = mask
        mask[place] = edit.value is not None
    return Rows(columns, rows.n, valid)


def tiled(rows: Rows, n: int) -> Rows:
    """n rows: those given, again and again."""
    return rows.take(np.arange(n) % rows.n)


def _cells(inputs: Sequence[Input]) -> Iterator[tuple[Input, tuple[int, ...], Input | Column, str]]:
    """Each scalar input, each scalar column of a tensor, and the first cell of any other tensor."""
    for one in inputs:
        if one.columns:
            for j, column in enumerate(one.columns):
                yield one, (j,), column, column.name
        else:
            cell = (0,) * (len(one.shape) - 1)
            yield one, cell, one, one.name + "[0]" * (1 if one.datatype == "BYTES" and cell else len(cell))


def _beyond(limit: float, one: Input, side: int) -> Any:
    """The value next to a bound on its wrong side, or None where the datatype has none."""
    dtype = one.type.dtype
    if one.type.is_float:
        with np.errstate(over="ignore"):
            value = np.nextafter(dtype.type(limit), dtype.type(np.inf * side))
        return value if np.isfinite(value) else None
    info = np.iinfo(dtype)
    whole = int(np.ceil(limit) if side < 0 else np.floor(limit)) + side
    return whole if info.min <= whole <= info.max else None


def _whole(bound: float, info: np.iinfo[Any]) -> bool:
    return bound == int(bound) and info.min <= int(bound) <= info.max


def _absent(one: Input) -> int | None:
    """An integer that is no category."""
    info = np.iinfo(one.type.dtype)
    known = {int(c) for c in one.categories}
    return next((v for v in (max(known) + 1, min(known) - 1) if info.min <= v <= info.max), None)
