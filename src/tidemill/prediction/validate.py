"""Validation: which rows break the signature, found for all rows at once; each bad row answers for itself only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tidemill.errors import Problem
from tidemill.model.signature import Column, Input
from tidemill.rows import Array, Rows

__all__ = ["Validator"]

# A row that has so many problems is looked at no further: a body of nulls must not become a million sentences.
# Counted for each row by itself, so that its neighbours change nothing.
MOST_IN_A_ROW = 10


class Found(list[Problem]):
    """The problems of one call, and the rows (n,) that have enough of them; None while there are none."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.full: Array | None = None
        self._n = n

    def settle(self) -> None:
        """Count the problems of each row, after a check that added some."""
        if len(self) >= MOST_IN_A_ROW:
            full = np.bincount([p.row for p in self], minlength=self._n) >= MOST_IN_A_ROW
            self.full = full if full.any() else None

    def kept(self, bad: Array) -> Array:
        """The bad cells (n, …) that are told of: those of rows that are not full, and only the first of each row."""
        if self.full is not None:
            bad = bad & ~self.full.reshape(-1, *[1] * (bad.ndim - 1))
        if bad.size > MOST_IN_A_ROW * len(bad):
            flat = bad.reshape(len(bad), -1)
            bad = (flat & (np.cumsum(flat, axis=1, dtype=np.int32) <= MOST_IN_A_ROW)).reshape(bad.shape)
        return bad


Check = Callable[[Rows, Found], None]


class Validator:
    """Compiled checks of one signature. A clean call costs a few NumPy comparisons an input."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._checks: list[Check] = [c for i in inputs if (c := _compile(i)) is not None]

    def problems(self, rows: Rows) -> list[Problem]:
        """The problems of every bad row, by row and then in the signature's order; empty when all rows are good.

        Inputs that come after those in which a row had ten problems are not looked at for that row, and ten are
        told of one input.
        """
        found = Found(rows.n)
        for check in self._checks:
            before = len(found)
            check(rows, found)
            if len(found) > before:
                found.settle()
        if len(found) > 1:
            found.sort(key=_by_row)
        return found


def _by_row(problem: Problem) -> int:
    return problem.row


def _compile(one: Input) -> Check | None:
    if one.datatype == "BYTES":
        return _bytes_check(one)
    if one.datatype == "BOOL":
        return None if one.nullable else lambda rows, found: _mask_check(one, rows, found)
    return _number_check(one)


def _number_check(one: Input) -> Check:
    """One comparison with the lower and one with the upper bounds; NaN fails both, so null needs no look of its own."""
    cells: Sequence[Input | Column] = one.columns or [one]
    dtype = one.type.dtype
    low = np.array([_bound(c.minimum, dtype, -1) for c in cells], dtype)
    high = np.array([_bound(c.maximum, dtype, +1) for c in cells], dtype)
    nullable = np.array([c.nullable for c in cells], np.bool_)
    is_float = one.type.is_float
    unbounded = all(c.minimum is None and c.maximum is None for c in cells)
    categories = np.array(one.categories, dtype) if one.categories else None
    if len(cells) == 1:
        low, high, nullable = low[0], high[0], nullable[0]
    if unbounded and not is_float and categories is None:
        return lambda rows, found: _mask_check(one, rows, found)

    def check(rows: Rows, found: Found) -> None:
        values = rows.columns[one.name]
        mask = rows.valid.get(one.name)
        if unbounded and is_float:
            ok = values == values  # false for NaN alone, in one pass
        else:
            ok = (values >= low) & (values <= high)
        if categories is not None:
            ok &= np.isin(values, categories)
        if np.count_nonzero(ok) == ok.size and mask is None:  # quicker than all()
            return
        absent = np.isnan(values) if is_float else ~mask if mask is not None else np.zeros(values.shape, np.bool_)
        bad = np.where(absent, ~nullable, ~ok)
        if not bad.any():
            return
        _report(one, cells, values, absent, bad, found)

    return check


def _report(one: Input, cells: Sequence[Any], values: Array, absent: Array, bad: Array, found: Found) -> None:
    for place in np.argwhere(found.kept(bad)):
        index = tuple(place.tolist())
        cell = cells[index[-1]] if one.columns else cells[0]
        name = _name(one, index)
        value = values[index]
        if absent[index]:
            found.append(Problem(index[0], "null", name, f"{name}: is missing, expected a number"))
        elif cell.minimum is not None and not value >= _bound(cell.minimum, values.dtype, -1):
            text = f"{name}: got {value!s}, expected ≥ {_number(cell.minimum)}"
            found.append(Problem(index[0], "below_minimum", name, text))
        elif cell.maximum is not None and not value <= _bound(cell.maximum, values.dtype, +1):
            text = f"{name}: got {value!s}, expected ≤ {_number(cell.maximum)}"
            found.append(Problem(index[0], "above_maximum", name, text))
        else:
            found.append(_unknown(one, index[0], name, value))


def _name(one: Input, index: tuple[int, ...]) -> str:
    """What a cell is called: its column, or its input and its place in it."""
    if one.columns:
        return one.columns[index[-1]].name
    return one.name + "".join(f"[{i}]" for i in index[1:])


def _number(limit: float) -> str:
    return f"{limit:.0f}" if limit == limit // 1 and abs(limit) < 1e15 else repr(limit)


def _unknown(one: Input, row: int, name: str, value: Any) -> Problem:
    known = ", ".join(map(str, one.categories[:8])) + (", …" if len(one.categories) > 8 else "")
    return Problem(row, "unknown_category", name, f"{name}: got {str(value)[:80]!r}, expected one of {known}")


def _mask_check(one: Input, rows: Rows, found: Found) -> None:
    mask = rows.valid.get(one.name)
    if mask is None or mask.all():
        return
    nullable = np.array([c.nullable for c in one.columns] or one.nullable, np.bool_)
    kind = "a boolean" if one.datatype == "BOOL" else "a number"
    for place in np.argwhere(found.kept(~mask & ~nullable)):
        index = tuple(place.tolist())
        name = _name(one, index)
        found.append(Problem(index[0], "null", name, f"{name}: is missing, expected {kind}"))


def _bytes_check(one: Input) -> Check | None:
    known: frozenset[Any] | None = frozenset(one.categories) if one.categories else None
    nullable = [c.nullable for c in one.columns] or [one.nullable]
    accepted = known | {None} if known is not None and all(nullable) else known
    if known is None and all(nullable):
        return None

    def check(rows: Rows, found: Found) -> None:
        values = rows.columns[one.name]
        flat = values.reshape(-1).tolist()
        if (None not in flat) if accepted is None else accepted.issuperset(flat):
            return
        width = len(nullable)
        wrong = [
            not nullable[i % width] if v is None else known is not None and v not in known for i, v in enumerate(flat)
        ]
        for place in np.argwhere(found.kept(np.array(wrong, np.bool_).reshape(values.shape))):
            index = tuple(place.tolist())
            name, value = _name(one, index), values[index]
            if value is None:
                found.append(Problem(index[0], "null", name, f"{name}: is missing, expected text"))
            else:
                found.append(_unknown(one, index[0], name, value))

    return check


def _bound(limit: float | None, dtype: np.dtype[Any], side: int) -> Any:
    """A bound in the column's own dtype, so that a value written as the bound itself passes; none is the widest."""
    if limit is None or limit == np.inf * side:
        return np.inf * side if dtype.kind == "f" else np.iinfo(dtype).min if side < 0 else np.iinfo(dtype).max
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(limit)
    info = np.iinfo(dtype)
    return min(max(int(np.ceil(limit) if side < 0 else np.floor(limit)), info.min), info.max)
