"""Intake: whatever a caller brings (JSON lists, records, arrays, Arrow batches) becomes the signature's rows.

What is wrong with the whole call (names, types, shapes) is an InputError here; what is wrong with single rows
(bounds, categories, missing cells) is found by validation, where each row answers for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.datatypes import from_numpy_dtype
from tidemill.errors import InputError, listing
from tidemill.model.signature import Input
from tidemill.prediction.cells import array_from_arrow, array_from_list, flatten, strings_from_array
from tidemill.rows import VALID, Array, Rows

__all__ = ["Intake", "Listed"]

# JSON values, flat or nested, with their shape where the wire states one (None: as nested).
Listed = tuple[Sequence[int] | None, list[Any]]


class Intake:
    """Knows the inputs of one package. Every method returns Rows holding exactly those inputs, in order."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.inputs = tuple(inputs)
        self.by_name = {i.name: i for i in inputs}
        # scalar column → (the tensor it belongs to, its place)
        self.by_column = {c.name: (i, j) for i in inputs for j, c in enumerate(i.columns)}
        self.table_columns = [n for i in inputs for n in ([c.name for c in i.columns] or [i.name])]
        # What a record of scalars may hold, if scalars are all there is.
        scalars = all(i.columns or _is_scalar(i) for i in inputs)
        self._scalars = frozenset(self.table_columns if scalars else ())

    # -- tensors: wires, NumPy callers ---------------------------------------------------------------------

    def from_tensors(self, tensors: Mapping[str, Array | Listed], *, cast: bool = False) -> Rows:
        """Tensors by input or column name, each as an array of shape (n, …) or as JSON values; the mask of NAME under
        `NAME.valid`, BOOL of the same shape. A cell is there if its mask and its value say so.

        With `cast`, arrays' dtypes of the same kind are converted (a NumPy caller's float64); without, they must be
        those of the signature (a wire). Raises InputError for a name, type or shape that is not the signature's.
        """
        given = {k: v for k, v in tensors.items() if not self._is_mask(k)}
        self.check_names(given.keys())
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        for name, tensor in given.items():
            one = self._field(name)
            if isinstance(tensor, tuple):
                columns[name], mask = self._from_list(name, one, *tensor)
                if mask is not None:
                    valid[name] = mask
            else:
                columns[name] = self._typed(name, one, tensor, cast)
        for name in [k for k in tensors if k not in given]:
            target = name.removesuffix(VALID)
            if target not in columns:
                raise InputError(f"{name} marks the cells of {target}, which was not sent", field=target)
            array = columns[target]
            columns[target] = _masked(array, _mask(name, target, tensors[name], array.shape), valid, target)
        return self._assemble(columns, valid)

    def from_arrays(self, arrays: Mapping[str, Array], *, cast: bool = False) -> Rows:
        """`from_tensors` of arrays alone: a binary wire, a NumPy caller."""
        return self.from_tensors(arrays, cast=cast)

    def from_lists(self, lists: Mapping[str, Listed]) -> Rows:
        """`from_tensors` of JSON values alone."""
        return self.from_tensors(lists)

    def _from_list(
        self, name: str, one: Input, shape: Sequence[int] | None, values: list[Any]
    ) -> tuple[Array, Array | None]:
        if shape is not None:
            concrete = tuple(shape)
        elif values:
            concrete = _nested_shape(values)
        else:
            concrete = (0, *(max(d, 0) for d in one.shape[1:])) if name in self.by_name else (0,)
        flat = flatten(values, concrete, name)
        width = len(flat) // max(1, concrete[0] if concrete else 1)
        # A null where none is allowed is that row's problem, found by validation, and not the call's.
        array, mask = array_from_list(flat, one.type, name, nullable=True, binary=one.binary, width=width)
        try:
            return array.reshape(concrete), None if mask is None else mask.reshape(concrete)
        except (ValueError, OverflowError):  # more axes, or longer ones, than an array may have
            raise InputError(f"{name}: got shape {list(concrete)}, expected {list(one.shape)}", name) from None

    def _typed(self, name: str, one: Input, array: Array, cast: bool) -> Array:
        if array.ndim == 0:
            raise InputError(f"{name}: got a scalar, expected an array whose first axis is the rows", field=name)
        if one.datatype == "BYTES" and (array.dtype.kind in "UST" or (cast and array.dtype.kind == "O")):
            return strings_from_array(array, name, one.binary)
        if array.dtype == one.type.dtype:
            return array
        found = from_numpy_dtype(array.dtype)
        kinds = array.dtype.kind + one.type.dtype.kind
        # Narrower integers are checked below; the others are NumPy's own "same kind".
        ok = kinds in ("ii", "uu", "iu", "ui", "ff", "if", "uf", "bi", "bu", "bf")
        if found is not one.type and not (cast and ok):
            raise InputError(f"{name}: got {found.name}, expected {one.datatype}", field=name)
        with np.errstate(over="ignore"):
            out: Array = array.astype(one.type.dtype)
        if out.dtype.kind in "iu" and not np.array_equal(out, array):
            place = tuple(np.argwhere(out != array)[0].tolist())
            text = f"{name}: row {place[0]} is {array[place]}, outside {one.datatype}"
            raise InputError(text, field=name, row=place[0])
        return out

    # -- records: JSON ---------------------------------------------------------------------------------------

    def from_records(self, records: list[Any]) -> Rows:
        """Row objects: `[{"age": 41, …}, …]`. A column that a row leaves out is missing in that row, and in that row
        only: what the other rows hold changes nothing in it.
        """
        rows = self._from_scalars(records)
        if rows is not None:
            return rows
        lists: dict[str, list[Any]] = {}
        for i, record in enumerate(records):
            if not isinstance(record, dict):
                raise InputError(f"row {i} is {type(record).__name__}, expected an object of named columns", row=i)
            for name in record:
                if name not in lists:
                    # At once: a column of its own for each row's unknown name would take the square of the request.
                    self.check_names((name,))
                    lists[name] = [None] * len(records)
                lists[name][i] = record[name]
        for one in self.inputs:
            if one.name in lists:
                continue
            if one.columns or _is_scalar(one):
                for name in [c.name for c in one.columns] or [one.name]:
                    lists.setdefault(name, [None] * len(records))
            elif not records:
                lists[one.name] = []
        for name, values in lists.items():
            if name in self.by_name and not _is_scalar(self.by_name[name]) and None in values:
                absent = values.index(None)
                raise InputError(f"{name}: missing in row {absent}; a tensor cannot be missing", name, absent)
        return self.from_lists({k: (None, v) for k, v in lists.items()})

    def _from_scalars(self, records: list[Any]) -> Rows | None:
        """Records of scalars, whole tensors at a time; None for others, and where something is wrong and is to be
        named by its column.
        """
        if not self._scalars:
            return None
        n = len(records)
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        try:
            for record in records:
                if not record.keys() <= self._scalars:
                    return None
            for one in self.inputs:
                names = [c.name for c in one.columns] or [one.name]
                flat = [record.get(name) for record in records for name in names]
                array, mask = array_from_list(flat, one.type, one.name, nullable=True, binary=one.binary)
                shape = (n,) if len(one.shape) == 1 else (n, len(names))
                columns[one.name] = array.reshape(shape)
                if mask is not None:
                    valid[one.name] = mask.reshape(shape)
        except (AttributeError, InputError):
            return None
        return Rows(columns, n, valid)

    # -- tables --------------------------------------------------------------------------------------------

    def from_arrow(self, batch: pa.RecordBatch) -> Rows:
        """An Arrow batch: scalar columns by name, tensors from a (fixed-size) list column or their scalar columns."""
        present = {n: i for i, n in enumerate(batch.schema.names)}
        if len(present) != batch.num_columns:
            self._check_repeated(batch.schema.names)
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
        self._check_shapes(columns, valid, batch.num_rows)
        return Rows(columns, batch.num_rows, valid)

    def _from_arrow_column(
        self, column: pa.Array, one: Input, columns: dict[str, Array], valid: dict[str, Array]
    ) -> None:
        inner = one.shape[1:]
        n = len(column)
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
        try:
            columns[one.name] = array.reshape((n, *dims))
        except ValueError:
            raise InputError(f"{one.name}: lists do not hold shape {list(one.shape)}", one.name) from None
        if mask is not None:
            valid[one.name] = mask.reshape(columns[one.name].shape)

    # -- shared --------------------------------------------------------------------------------------------

    def _is_mask(self, name: str) -> bool:
        return name.endswith(VALID) and name not in self.by_name and name not in self.by_column

    def _field(self, name: str) -> Input:
        return self.by_name[name] if name in self.by_name else self.by_column[name][0]

    def _check_repeated(self, names: Sequence[str]) -> None:
        for name in names:
            if names.count(name) > 1 and (name in self.by_name or name in self.by_column):
                raise InputError(f"the table has {names.count(name)} columns named {name!r}; keep one", field=name)

    def check_names(self, names: Any) -> None:
        """Raise InputError for a name that is neither an input nor a column of one."""
        for name in names:
            if name not in self.by_name and name not in self.by_column:
                raise InputError(
                    f"unknown input {name!r:.200}: expected {_quoted(self.by_name)}"
                    + (f" or the columns {_quoted(self.by_column)}" if self.by_column else ""),
                    field=name,
                )

    def _assemble(self, columns: dict[str, Array], valid: dict[str, Array]) -> Rows:
        """Pack scalar columns into their tensors, check presence, shapes and the common first axis."""
        out: dict[str, Array] = {}
        masks: dict[str, Array] = {}
        n = -1
        for name, array in columns.items():
            if not array.ndim:
                raise InputError(f"{name}: got a scalar, expected an array whose first axis is the rows", field=name)
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
                raise InputError(f"input {one.name!r} is missing: expected {_quoted(self.by_name)}", field=one.name)
        self._check_shapes(out, masks, n)
        return Rows(out, n, masks)

    def _pack(
        self, one: Input, columns: dict[str, Array], valid: dict[str, Array], masks: dict[str, Array], n: int
    ) -> Array:
        absent = [c.name for c in one.columns if c.name not in columns]
        if absent:
            if len(absent) == len(one.columns):
                raise InputError(
                    f"input {one.name!r} is missing: send it, or its columns {_quoted(absent)}",
                    field=one.name,
                )
            raise InputError(f"missing columns of {one.name}: {_quoted(absent)}", field=absent[0])
        matrix = np.empty((n, len(one.columns)), one.type.dtype)
        for j, c in enumerate(one.columns):
            array = columns[c.name]
            if array.ndim != 1 and array.shape != (n, 1):
                raise InputError(f"{c.name}: expected one value a row, got shape {list(array.shape)}", field=c.name)
            matrix[:, j] = array.reshape(n)
            if c.name in valid:
                masks.setdefault(one.name, np.ones(matrix.shape, np.bool_))[:, j] = valid[c.name].reshape(n)
        return matrix

    def _check_shapes(self, columns: dict[str, Array], valid: dict[str, Array], n: int) -> None:
        for one in self.inputs:
            shape = columns[one.name].shape
            want = one.shape
            if shape[1:] == want[1:]:
                continue
            if _is_scalar(one) and shape in ((n,), (n, 1)):
                same = (n, *want[1:])
                columns[one.name] = columns[one.name].reshape(same)
                if one.name in valid:
                    valid[one.name] = valid[one.name].reshape(same)
                continue
            if len(shape) != len(want) or any(w not in (-1, s) for w, s in zip(want[1:], shape[1:], strict=True)):
                raise InputError(f"{one.name}: got shape {list(shape)}, expected {list(want)}", field=one.name)


_BOOL = from_numpy_dtype(np.dtype(np.bool_))


def _mask(name: str, target: str, mask: Array | Listed, wanted: tuple[int, ...]) -> Array:
    """The mask `name` of `target`, whose shape is `wanted`."""
    if not isinstance(mask, tuple):
        if mask.dtype == np.bool_ and mask.shape == wanted:
            return mask
        found = f"{mask.dtype} {list(mask.shape)}"
    else:
        shape, values = mask
        if shape is None or tuple(shape) == wanted:
            return array_from_list(flatten(values, wanted, name), _BOOL, name)[0].reshape(wanted)
        found = f"{list(shape)}"
    text = f"{name}: expected BOOL of shape {list(wanted)}, the shape of {target}, got {found}"
    raise InputError(text, field=target)


def _masked(array: Array, mask: Array, valid: dict[str, Array], name: str) -> Array:
    """Apply a mask the way its datatype keeps missing cells: NaN, None, or the mask itself."""
    if mask.all():
        return array
    known = valid.get(name)
    if known is not None:  # nulls beside the mask: a cell is there if both say so
        mask = mask & known
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


def _is_scalar(one: Input) -> bool:
    """One value a row, whether written as [-1] or as [-1, 1]."""
    return one.shape in ((-1,), (-1, 1))


def _fixed(type_: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(type_))


def _known(inner: Sequence[int], axis: int) -> int:
    return inner[axis] if axis < len(inner) and inner[axis] > 0 else 0


def _quoted(names: Iterable[str]) -> str:
    return listing(map(repr, names))


def _missing(name: str, present: Sequence[str]) -> InputError:
    return InputError(f"column {name!r} is missing; the table has {_quoted(present)}", field=name)
