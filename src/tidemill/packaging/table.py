"""The `--like` table, read once: what its columns hold, and a random choice of rows to try the model on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.json

from tidemill.batch.places import InputFile, find_files
from tidemill.errors import InputError, SourceError
from tidemill.model.profile import ColumnProfile, TableProfile
from tidemill.rows import Array

__all__ = ["KEPT_ROWS", "ColumnFacts", "LikeTable", "read_like", "table_batches"]

KEPT_ROWS = 2000
_KEPT_WITH_NULLS = 500
_SEED = 20_000
_BATCH_ROWS = 65_536


@dataclass(slots=True)
class ColumnFacts:
    """What one column was seen to hold. A NaN counts as missing. `values` is None once there were too many."""

    type: pa.DataType
    count: int = 0
    missing: int = 0
    minimum: float | None = None
    maximum: float | None = None
    values: set[str] | None = field(default_factory=set)

    @property
    def is_text(self) -> bool:
        return _is_text(self.type)

    def categories(self, most: int) -> tuple[str, ...]:
        """All different strings, sorted, if they are at most `most` and each was seen five times on average."""
        if not self.values or len(self.values) > most or self.count - self.missing < 5 * len(self.values):
            return ()
        return tuple(sorted(self.values))


@dataclass(frozen=True, slots=True)
class LikeTable:
    """`features` are the column names without those dropped. `rows` is a random choice, those with nulls among it."""

    name: str
    features: tuple[str, ...]
    columns: dict[str, ColumnFacts]
    rows: pa.RecordBatch
    count: int

    def profile(self) -> TableProfile:
        """What the package remembers of its feature columns."""
        found = [(name, self.columns[name]) for name in self.features]
        return TableProfile(
            format=1,
            table=self.name,
            rows=self.count,
            columns=tuple(
                ColumnProfile(
                    name=name,
                    type=str(c.type),
                    missing=c.missing,
                    minimum=c.minimum,
                    maximum=c.maximum,
                    values=tuple(sorted(c.values)) if c.values else None,
                )
                for name, c in found
            ),
        )


def read_like(path: str, drop: Sequence[str], most_categories: int) -> LikeTable:
    """Read Parquet, CSV or JSON lines (gzip, zstd): a file, a directory or a glob, with hive partitions.

    Raises InputError for a table that is missing, unreadable or empty, or lacks a column that is to be dropped.
    """
    columns: dict[str, ColumnFacts] = {}
    kept, with_nulls = _Kept(KEPT_ROWS), _Kept(_KEPT_WITH_NULLS)
    random = np.random.default_rng(_SEED)
    count = 0
    try:
        for batch in table_batches(path):
            if not columns:
                columns = {f.name: ColumnFacts(f.type) for f in batch.schema}
            if batch.schema.names != list(columns):
                raise InputError(f"{path}: its files differ in columns: {', '.join(batch.schema.names)}")
            missing = np.zeros(batch.num_rows, np.bool_)
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                missing |= _look(columns[name], column, most_categories)
            keys = random.random(batch.num_rows)
            kept.add(batch, keys)
            if missing.any():
                with_nulls.add(batch.filter(pa.array(missing)), keys[missing])
            count += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}") from None
    if not count:
        raise InputError(f"{path}: has no rows")
    absent = [n for n in drop if n not in columns]
    if absent:
        raise InputError(f"{path}: no column {', '.join(absent)} to drop; it has {', '.join(columns)}")
    rows = pa.concat_tables([t for t in (kept.rows(), with_nulls.rows(beyond=kept)) if t is not None])
    features = tuple(n for n in columns if n not in drop)
    return LikeTable(Path(path).name, features, columns, rows.combine_chunks().to_batches()[0], count)


def table_batches(path: str) -> Iterator[pa.RecordBatch]:
    """The table's rows, its hive partitions as columns; the same files that `tidemill score` would read."""
    try:
        root, format_, files = find_files(path)
    except SourceError as error:
        raise InputError(str(error)) from None
    if format_ == "parquet":
        for file in files:
            for batch in ds.dataset(root / file.name, format="parquet").to_batches(batch_size=_BATCH_ROWS):
                yield _with_partition(batch, file)
        return
    # Whether a column is text must not depend on which block it was first seen in, so the whole is typed at once.
    read = _read_csv if format_ == "csv" else pyarrow.json.read_json
    tables = []
    for file in files:
        batches = [_with_partition(b, file) for b in read(root / file.name).combine_chunks().to_batches()]
        tables += [pa.Table.from_batches(batches)] if batches else []
    if tables:
        yield from pa.concat_tables(tables, promote_options="permissive").to_batches(max_chunksize=_BATCH_ROWS)


def _read_csv(path: Path) -> pa.Table:
    """As batch scoring reads it: an empty unquoted cell is null, `""` is empty text, and no word stands for null."""
    convert = pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False)
    return pyarrow.csv.read_csv(
        path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True), convert_options=convert
    )


def _with_partition(batch: pa.RecordBatch, file: InputFile) -> pa.RecordBatch:
    for name, value in file.partition.items():
        if name not in batch.schema.names:
            number = value is not None and value.lstrip("-").isdecimal()
            cell = pa.scalar(value, pa.string()).cast(pa.int64() if number else pa.string())
            batch = batch.append_column(name, pa.repeat(cell, batch.num_rows))
    return batch


def _look(facts: ColumnFacts, column: pa.Array, most: int) -> Array:
    """Count a batch into the facts; returns which rows are missing."""
    facts.count += len(column)
    floating = pa.types.is_floating(column.type)
    missing = np.asarray(column.is_null(nan_is_null=floating).to_numpy(zero_copy_only=False))
    facts.missing += int(missing.sum())
    if pa.types.is_integer(column.type) or floating or pa.types.is_decimal(column.type):
        values = column.cast(pa.float64(), safe=False).drop_null()
        seen = values.filter(pc.is_finite(values))
        if len(seen):
            low, high = (v.as_py() for v in pc.min_max(seen).values())
            facts.minimum = low if facts.minimum is None else min(facts.minimum, low)
            facts.maximum = high if facts.maximum is None else max(facts.maximum, high)
    if facts.values is not None and _is_text(column.type) and not pa.types.is_null(column.type):
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        facts.values.update(v for v in plain.unique().to_pylist() if v is not None)
        if len(facts.values) > most:
            facts.values = None
    return missing


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


class _Kept:
    """The rows with the smallest random keys: a uniform choice however the rows came in."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.table: pa.Table | None = None
        self.keys = np.empty(0)

    def add(self, batch: pa.RecordBatch, keys: Array) -> None:
        # Only rows that can still enter are copied.
        if len(self.keys) >= self.most:
            enter = keys < self.keys.max()
            batch, keys = batch.filter(pa.array(enter)), keys[enter]
        table = pa.Table.from_batches([batch])
        joined = table if self.table is None else pa.concat_tables([self.table, table])
        both = np.concatenate([self.keys, keys])
        order = np.argsort(both, kind="stable")[: self.most]
        self.table, self.keys = joined.take(pa.array(order)).combine_chunks(), both[order]

    def rows(self, beyond: _Kept | None = None) -> pa.Table | None:
        """The rows kept; with `beyond`, without those that it holds already."""
        if self.table is None or beyond is None:
            return self.table
        return self.table.filter(pa.array(~np.isin(self.keys, beyond.keys)))
