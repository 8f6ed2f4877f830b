"""Which columns of an input a run reads: those that the model looks for and those that are copied, and their types."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tidemill.batch.inputs import Found
from tidemill.batch.places import InputFile, SourceFormat
from tidemill.errors import ConfigError, SourceError, listing
from tidemill.model.signature import Input

__all__ = [
    "common_schema",
    "copied_columns",
    "model_columns",
    "partition_schema",
    "wanted_columns",
    "wanted_types",
    "with_partitions",
]


def wanted_columns(inputs: Sequence[Input], pass_through: Sequence[str], present: Sequence[str]) -> list[str]:
    """Of the columns that are there, those that the model reads or that are copied. Raises ConfigError, SourceError."""
    wanted = model_columns(inputs, present)
    missing = [n for n in wanted if n not in present]
    if missing:
        raise SourceError(f"column {missing[0]!r} is missing; there are {listing(present)}")
    return list(dict.fromkeys([*wanted, *copied_columns(pass_through, present)]))


def wanted_types(inputs: Sequence[Input]) -> dict[str, pa.DataType]:
    """What the model wants of the columns that it names, in formats that carry no types: tensors as lists of any
    length, whose shape is for intake to check.
    """
    types: dict[str, pa.DataType] = {}
    for one in inputs:
        types[one.name] = one.type.arrow()
        for _ in one.shape[1:]:
            types[one.name] = pa.list_(types[one.name])
        types |= {c.name: one.type.arrow() for c in one.columns}
    return types


def model_columns(inputs: Sequence[Input], present: Sequence[str]) -> list[str]:
    """The columns that the path's intake will look for, given those that are there."""
    return [
        name
        for one in inputs
        for name in ([one.name] if one.name in present or not one.columns else [c.name for c in one.columns])
    ]


def copied_columns(pass_through: Sequence[str], present: Sequence[str]) -> list[str]:
    """Of the columns that are there, those that are copied ("*": all). Raises ConfigError for one that is absent."""
    if "*" in pass_through:
        return list(present)
    absent = [n for n in pass_through if n not in present]
    if absent:
        raise ConfigError(f"pass-through column {absent[0]!r} is not in the input, which has {listing(present)}")
    return list(dict.fromkeys(pass_through))


def partition_schema(found: Found, inputs: Sequence[Input]) -> pa.Schema:
    """Partition keys as columns: the model's type where it reads one, else the one that is known, else integers where
    all are, else text.
    """
    files = found.files
    wanted = {i.name: i.type.arrow() for i in inputs if len(i.shape) == 1}
    wanted |= {c.name: i.type.arrow() for i in inputs for c in i.columns}
    fields = []
    for key in dict.fromkeys(k for f in files for k in f.partition):
        values = [f.partition.get(key) for f in files]
        whole = all(v is None or _is_integer(v) for v in values) and any(v is not None for v in values)
        usual = pa.type_for_alias(found.partition_types.get(key, "int64" if whole else "string"))
        fields.append(pa.field(key, wanted.get(key, usual)))
    return pa.schema(fields)


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    # "007" is a code, not a number.
    return digits.isascii() and digits.isdigit() and len(digits) < 19 and (digits == "0" or digits[0] != "0")


def with_partitions(schema: pa.Schema, file: InputFile, partitions: pa.Schema) -> pa.Schema:
    """The file's own columns and, where it has none of that name, its partition keys."""
    for field in partitions:
        if field.name in file.partition and field.name not in schema.names:
            schema = schema.append(field)
    return schema


def common_schema(
    schemas: Sequence[pa.Schema],
    wanted: Sequence[str],
    inputs: Sequence[Input],
    files: Sequence[InputFile],
    format_: SourceFormat,
) -> pa.Schema:
    """The wanted columns in a type that holds those of every file. Raises SourceError for one that a file lacks, or
    that no type holds.
    """
    types = wanted_types(inputs)
    optional = {i.name for i in inputs if i.nullable} | {c.name for i in inputs for c in i.columns if c.nullable}
    fields = []
    for name in wanted:
        field: pa.Field | None = None
        for schema, file in zip(schemas, files, strict=True):
            if name not in schema.names:
                # In JSON lines a missing key is a null: a key that no line of the head holds may still be meant so.
                if format_ == "jsonl" and (name in optional or len(schema) == 0):
                    continue
                raise SourceError(f"{file.name}: column {name!r} is missing; it has {listing(schema.names)}")
            try:
                found = schema.field(name).with_nullable(True).remove_metadata()
                field = found if field is None else _wider(field, found)
            except pa.ArrowException as error:
                raise SourceError(
                    f"{file.name}: column {name!r} does not fit that of the other files: {error}"
                ) from None
        fields.append(field if field is not None else pa.field(name, types.get(name, pa.string())))
    return pa.schema(fields)


def _wider(a: pa.Field, b: pa.Field) -> pa.Field:
    if a.type == b.type:
        return a
    return pa.unify_schemas([pa.schema([a]), pa.schema([b])], promote_options="permissive").field(0)
