"""Rows: n records as named NumPy columns with a common first axis. The only thing that reaches a model.

A missing float is NaN, a missing BYTES element is None, and only integers and booleans carry a mask for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["VALID", "Array", "PackedRows", "Rows"]

# Wherever columns are a flat mapping (a wire, user code), the mask of NAME stands under NAME + VALID.
VALID = ".valid"

Array = np.ndarray[Any, np.dtype[Any]]


class Rows:
    """`columns`: name → array of shape (n, …). `valid`: name → BOOL array of the same shape, False where an
    integer or boolean cell is missing; a name that is absent there has no missing cell. Treated as immutable:
    arrays may be views of a request body or an Arrow buffer.
    """

    __slots__ = ("_columns", "n", "valid")

    def __init__(self, columns: Mapping[str, Array], n: int, valid: Mapping[str, Array] | None = None) -> None:
        self._columns = columns
        self.n = n
        self.valid: Mapping[str, Array] = valid or {}

    @property
    def columns(self) -> Mapping[str, Array]:
        """The arrays by name."""
        return self._columns

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}: {v.dtype}{list(v.shape)}" for k, v in self.columns.items())
        return f"Rows(n={self.n}, {inside})"

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays (for BYTES the lengths of the values, which is what grows)."""
        total = 0
        for array in self.columns.values():
            if array.dtype.kind == "O":
                total += sum(len(v) if v is not None else 1 for v in array.reshape(-1).tolist())
            else:
                total += array.nbytes
        return total

    def slice(self, start: int, stop: int) -> Rows:
        """Rows start (included) to stop (excluded), as views."""
        if start == 0 and stop >= self.n:
            return self
        columns = {k: v[start:stop] for k, v in self.columns.items()}
        valid = {k: v[start:stop] for k, v in self.valid.items()}
        return Rows(columns, max(0, min(stop, self.n) - start), valid)

    def take(self, index: Array) -> Rows:
        """The rows at an integer index or under a boolean mask of shape (n,), copied."""
        columns = {k: v[index] for k, v in self.columns.items()}
        valid = {k: v[index] for k, v in self.valid.items()}
        n = int(np.count_nonzero(index)) if index.dtype == np.bool_ else len(index)
        return Rows(columns, n, valid)

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """All rows of the parts, which have the same columns, in order."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        if isinstance(first, PackedRows) and all(type(p) is PackedRows and p.packed is first.packed for p in parts):
            return first.joined(parts)
        columns = {k: np.concatenate([p.columns[k] for p in parts]) for k in parts[0].columns}
        masked = {k for p in parts for k in p.valid}
        valid = {
            k: np.concatenate([p.valid[k] if k in p.valid else np.ones(p.columns[k].shape, np.bool_) for p in parts])
            for k in masked
        }
        return Rows(columns, sum(p.n for p in parts), valid)


class PackedRows(Rows):
    """Rows of one tensor of fixed width that are bytes still (native order, row-major, of the dtype `packed`).

    Joining the bytes of many callers is several times quicker than making, converting and concatenating their arrays.
    All that are joined are of one `name`, `dtype` and `width`: those of one model.
    """

    __slots__ = ("data", "dtype", "name", "packed", "width")

    def __init__(
        self, name: str, data: bytes, dtype: np.dtype[Any], width: int, n: int, packed: np.dtype[Any] | None = None
    ) -> None:
        self.name = name
        self.data = data
        self.dtype = dtype
        self.packed = packed or dtype
        self.width = width
        self.n = n
        self.valid = _NONE
        self._columns = _NONE

    @property
    def columns(self) -> Mapping[str, Array]:
        """As of any rows; the array is a view of the bytes, or converted from them, when it is first asked for."""
        if self._columns is _NONE:
            array: Array = np.ndarray((self.n, self.width), self.packed, self.data)
            if self.packed is not self.dtype:
                array = array.astype(self.dtype, copy=False)
            self._columns = {self.name: array}
        return self._columns

    @property
    def nbytes(self) -> int:
        """As of any rows."""
        return len(self.data)

    def joined(self, parts: Sequence[Any]) -> PackedRows:
        """All rows of the parts, which are packed like this one, in order."""
        data = b"".join([p.data for p in parts])
        return PackedRows(self.name, data, self.dtype, self.width, sum([p.n for p in parts]), self.packed)


_NONE: Mapping[str, Array] = {}
