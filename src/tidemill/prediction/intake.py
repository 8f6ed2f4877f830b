"""Intake: whatever a caller brings (JSON lists, records, arrays, Arrow batches) becomes the signature's rows.

What is wrong with the whole call (names, types, shapes) is an InputError here; what is wrong with single rows
(bounds, categories, missing cells) is found by validation, where each row answers for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.datatypes import from_numpy_dtype
from tidemill.errors import InputError
from tidemill.model.signature import Input
from tidemill.prediction.cells import array_from_arrow, array_from_list, flatten
from tidemill.rows import VALID, Array, Rows

__all__ = ["Intake"]


class Intake:
    """Knows the inputs of one package. Every method returns Rows holding exactly those inputs, in order."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.inputs = tuple(inputs)
        self.by_name = {i.name: i for i in inputs}
        # scalar column → (the tensor it belongs to, its place)
        self.by_column = {c.name: (i, j) for i in inputs for j, c in enumerate(i.columns)}
        self.table_columns = [n for i in inputs for n in ([c.name for c in i.columns] or [i.name])]

    # -- arrays: the binary wire, NumPy callers ------------------------------------------------------------

    def from_arrays(self, arrays: Mapping[str, Array], *, cast: bool = False) -> Rows:
        """Arrays of shape (n, …) by input or column name, masks under `NAME.valid`. With `cast`, dtypes of the same
        kind are converted (a NumPy caller's float64); without, they must be those of the signature (a wire).
        """
        given = {k: v for k, v in arrays.items() if not (k.endswith(VALID) and k not in self.by_name)}
        masks = {k.removesuffix(VALID): v for k, v in arrays.items() if k not in given}
        self._check_names(given.keys())
        for name in masks:
            if name not in given:
                raise InputError(f"{name}{VALID} marks the cells of {name}, which was not sent", field=name)
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        for name, array in given.items():
            one = self._field(name)
            columns[name] = array = self._typed(name, one, array, cast)
            mask = masks.get(name)
            if mask is not None:
                if mask.dtype != np.bool_ or mask.shape != array.shape:
                    raise InputError(
                        f"{name}{VALID}: expected BOOL of shape {list(array.shape)}, the shape of {name}, "
                        f"got {mask.dtype} {list(mask.shape)}",
                        field=name,
                    )
                columns[name] = _masked(array, mask, valid, name)
        return self._assemble(columns, valid)

    def _typed(self, name: str, one: Input, array: Array, cast: bool) -> Array:
        if array.ndim == 0:
            raise InputError(f"{name}: got a scalar, expected an array whose first axis is the rows", field=name)
        if one.datatype == "BYTES" and array.dtype.kind in "US":
            array = array.astype(np.object_)
        if array.dtype == one.type.dtype:
            return array
        found = from_numpy_dtype(array.dtype)
        ok = np.can_cast(array.dtype, one.type.dtype, "same_kind") or (one.type.is_float and array.dtype.kind in "iu")
        if not cast or one.datatype == "BYTES" or not ok:
            raise InputError(f"{name}: got {found.name}, expected {one.datatype}", field=name)
        with np.errstate(over="ignore"):
            out = array.astype(one.type.dtype)
        if out.dtype.kind in "iu" and not np.array_equal(out, array):
            raise InputError(f"{name}: values do not fit {one.datatype}", field=name)
        return out

    # -- Python values: JSON -------------------------------------------------------------------------------

    def from_lists(self, lists: Mapping[str, tuple[Sequence[int] | None, list[Any]]]) -> Rows:
        """Lists by input or column name, each with its shape where the wire states one (None: as nested).

        A list under `NAME.valid` is the mask of NAME.
        """
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        given = {k: v for k, v in lists.items() if not (k.endswith(VALID) and k not in self.by_name)}
        self._check_names(given.keys())
        for name, (shape, values) in given.items():
            one = self._field(name)
            nullable = one.nullable or name in self.by_column or any(c.nullable for c in one.columns)
            concrete = _nested_shape(values) if shape is None else tuple(shape)
            flat = flatten(values, concrete, name)
            array, mask = array_from_list(flat, one.type, name, nullable=nullable, binary=one.binary)
            columns[name] = array.reshape(concrete)
            if mask is not None:
                valid[name] = mask.reshape(concrete)
        for name in lists.keys() - given.keys():
            target = name.removesuffix(VALID)
            if target not in columns:
                raise InputError(f"{name} marks the cells of {target}, which was not sent", field=target)
            shape, values = lists[name]
            flat = flatten(values, columns[target].shape, name)
            mask, _ = array_from_list(flat, _BOOL, name)
            columns[target] = _masked(columns[target], mask.reshape(columns[target].shape), valid, target)
        return self._assemble(columns, valid)

    def from_records(self, records: list[Any]) -> Rows:
        """Row objects: `[{"age": 41, …}, …]`. A column that a row leaves out is missing in that row."""
        lists: dict[str, list[Any]] = {}
        for i, record in enumerate(records):
            if not isinstance(record, dict):
                raise InputError(f"row {i} is {type(record).__name__}, expected an object of named columns", row=i)
            for name in record:
                if name not in lists:
                    lists[name] = [None] * len(records)
                lists[name][i] = record[name]
        if not records:
            lists = {name: [] for name in self.table_columns}
        self._check_names(lists.keys())
        for name, values in lists.items():
            one = self._field(name)
            absent = next((i for i, v in enumerate(values) if v is None), None)
            if absent is not None and len(one.shape) > 1 and name in self.by_name:
                raise InputError(f"{name}: missing in row {absent}; a tensor cannot be missing", name, absent)
        return self.from_lists({k: (None, v) for k, v in lists.items()})

    # -- tables --------------------------------------------------------------------------------------------

    def from_arrow(self, batch: pa.RecordBatch) -> Rows:
        """An Arrow batch: scalar columns by name, tensors from a (fixed-size) list column or their scalar columns."""
        present = {n: i for i, n in enumerate(batch.schema.names)}
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        for one in self.inputs:
            if one.name in present:
                self._from_arrow_column(batch.column(present[one.name]), one, columns, valid)
            elif one.columns:
                matrix = np.empty((batch.num_rows, len(one.columns)), one.type.dtype)
                for j, c in enumerate(one.columns):
                    if c.name not in present:
                        raise _missing(c.name, batch.schema.names)
                    array, mask = array_from_arrow(batch.column(present[c.name]), one.type, c.name)
                    matrix[:, j] = array
                    if mask is not None:
                        valid.setdefault(one.name, np.ones(matrix.shape, np.bool_))[:, j] = mask
                columns[one.name] = matrix
            else:
                raise _missing(one.name, batch.schema.names)
        self._check_shapes(columns, batch.num_rows)
        return Rows(columns, batch.num_rows, valid)

    def _from_arrow_column(
        self, column: pa.Array, one: Input, columns: dict[str, Array], valid: dict[str, Array]
    ) -> None:
        inner = one.shape[1:]
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        dims: list[int] = []
        while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or _fixed(column.type):
            if column.null_count:
                row = column.is_null().index(True).as_py()
                raise InputError(f"{one.name}: row {row} is null; a tensor cannot be missing", one.name, row)
            if _fixed(column.type):
                dims.append(column.type.list_size)
            else:
                lengths = column.value_lengths().to_numpy(zero_copy_only=False)
                width = int(lengths[0]) if len(lengths) else _known(inner, len(dims))
                if (lengths != width).any():
                    row = int(np.argmax(lengths != width))
                    raise InputError(
                        f"{one.name}: ragged lists: row {row} has {lengths[row]} elements, row 0 has {width}",
                        one.name,
                        row,
                    )
                dims.append(width)
            column = column.flatten()
        few = bool(one.categories)
        array, mask = array_from_arrow(column, one.type, one.name, binary=one.binary, few_values=few)
        if len(inner) > 1 and len(dims) == 1:  # a flat list holds a tensor of higher rank in row-major order
            dims = list(inner)
        rows = len(column) if not dims else -1
        try:
            columns[one.name] = array.reshape((rows, *dims))
        except ValueError:
            raise InputError(f"{one.name}: lists do not hold shape {list(one.shape)}", one.name) from None
        if mask is not None:
            valid[one.name] = mask.reshape(columns[one.name].shape)

    # -- shared --------------------------------------------------------------------------------------------

    def _field(self, name: str) -> Input:
        return self.by_name[name] if name in self.by_name else self.by_column[name][0]

    def _check_names(self, names: Any) -> None:
        for name in names:
            if name not in self.by_name and name not in self.by_column:
                raise InputError(
                    f"unknown input {name!r}: expected {_listing(self.by_name)}"
                    + (f" or the columns {_listing(self.by_column)}" if self.by_column else ""),
                    field=name,
                )

    def _assemble(self, columns: dict[str, Array], valid: dict[str, Array]) -> Rows:
        """Pack scalar columns into their tensors, check presence, shapes and the common first axis."""
        out: dict[str, Array] = {}
        masks: dict[str, Array] = {}
        n = -1
        for name, array in columns.items():
            if n < 0:
                n = len(array)
            elif len(array) != n:
                first = next(iter(columns))
                raise InputError(f"{name} has {len(array)} rows, {first} has {n}", field=name)
        for one in self.inputs:
            if one.name in columns:
                for c in one.columns:
                    if c.name in columns:
                        raise InputError(f"{c.name} is a column of {one.name}; send one or the other", field=c.name)
                out[one.name] = columns[one.name]
                if one.name in valid:
                    masks[one.name] = valid[one.name]
            elif one.columns:
                out[one.name] = self._pack(one, columns, valid, masks, n)
            else:
                raise InputError(f"input {one.name!r} is missing: expected {_listing(self.by_name)}", field=one.name)
        self._check_shapes(out, n)
        return Rows(out, n, masks)

    def _pack(
        self, one: Input, columns: dict[str, Array], valid: dict[str, Array], masks: dict[str, Array], n: int
    ) -> Array:
        absent = [c.name for c in one.columns if c.name not in columns]
        if absent:
            if len(absent) == len(one.columns):
                raise InputError(
                    f"input {one.name!r} is missing: send it, or its columns {_listing(absent)}",
                    field=one.name,
                )
            raise InputError(f"missing columns of {one.name}: {_listing(absent)}", field=absent[0])
        matrix = np.empty((n, len(one.columns)), one.type.dtype)
        for j, c in enumerate(one.columns):
            array = columns[c.name]
            if array.ndim != 1 and array.shape != (n, 1):
                raise InputError(f"{c.name}: expected one value a row, got shape {list(array.shape)}", field=c.name)
            matrix[:, j] = array.reshape(n)
            if c.name in valid:
                masks.setdefault(one.name, np.ones(matrix.shape, np.bool_))[:, j] = valid[c.name].reshape(n)
        return matrix

    def _check_shapes(self, columns: dict[str, Array], n: int) -> None:
        for one in self.inputs:
            shape = columns[one.name].shape
            want = one.shape
            if shape[1:] == want[1:]:
                continue
            if len(want) == 1 and shape == (n, 1):
                columns[one.name] = columns[one.name].reshape(n)
                continue
            if len(shape) != len(want) or any(w not in (-1, s) for w, s in zip(want[1:], shape[1:], strict=True)):
                raise InputError(f"{one.name}: got shape {list(shape)}, expected {list(want)}", field=one.name)


_BOOL = from_numpy_dtype(np.dtype(np.bool_))


def _masked(array: Array, mask: Array, valid: dict[str, Array], name: str) -> Array:
    """Apply a mask the way its datatype keeps missing cells: NaN, None, or the mask itself."""
    if mask.all():
        return array
    if array.dtype.kind in "fO":
        array = array.copy()
        array[~mask] = np.nan if array.dtype.kind == "f" else None
        return array
    valid[name] = mask
    return array


def _nested_shape(values: list[Any]) -> tuple[int, ...]:
    shape = [len(values)]
    inner: Any = values
    while inner and isinstance(inner[0], list):
        inner = inner[0]
        shape.append(len(inner))
    return tuple(shape)


def _fixed(type_: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(type_))


def _known(inner: Sequence[int], axis: int) -> int:
    return inner[axis] if axis < len(inner) and inner[axis] > 0 else 0


def _listing(names: Any) -> str:
    shown = [repr(n) for n in names]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def _missing(name: str, present: Sequence[str]) -> InputError:
    return InputError(f"column {name!r} is missing; the table has {_listing(present)}", field=name)
