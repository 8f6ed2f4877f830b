"""A directory of Parquet files by `key=value` directories and of about a target size, written from parts in order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa

from tidemill.batch.ledger import PartFile, part_file, sync_directory
from tidemill.batch.places import NULL_PARTITION
from tidemill.batch.sinks.parquet import ParquetPart, ParquetSink, read_part

__all__ = ["PartitionWriter", "cannot_partition"]

# Open files, and bytes that wait in all of them for their row groups to fill.
_OPEN = 128
_HELD = 128 << 20
# Rows that are spread at a time: the grain of a file's size.
_ROWS = 8192


def cannot_partition(schema: pa.Schema, keys: Sequence[str]) -> str | None:
    """Why rows of this schema cannot be spread over directories of these columns, in one sentence, or None."""
    for key in keys:
        if key not in schema.names:
            return f"partition_by names {key!r}, which is no column of the output; it has {', '.join(schema.names)}"
        type_ = _inner(schema.field(key).type)
        if not (
            pa.types.is_string(type_)
            or pa.types.is_large_string(type_)
            or pa.types.is_integer(type_)
            or pa.types.is_boolean(type_)
            or pa.types.is_date(type_)
            or pa.types.is_null(type_)
        ):
            return f"partition_by names {key!r} of {type_}; a directory is named by text, integer, boolean or date"
    if len(keys) == len(schema.names):
        return "partition_by names every column of the output; a file needs one of its own"
    return None


class _File:
    """A file that is being written."""

    def __init__(self, name: str, path: Path, part: ParquetPart) -> None:
        self.name, self.path, self.part, self.rows = name, path, part, 0


class PartitionWriter:
    """Takes parts in order and spreads their rows; within a partition the order stays. Raises OSError as the disk does.

    `schema` is that of the rows with the columns of `keys`; parts of other types are cast to it, and ArrowException
    tells of a value that does not fit. `keys` may be empty: then only the size of files is governed. A file is closed
    once it has `file_bytes`, or when more than 128 are open. `suffix` ends the name of each.
    """

    def __init__(
        self,
        directory: Path,
        schema: pa.Schema,
        stamp: bytes,
        keys: Sequence[str],
        file_bytes: int,
        suffix: str = "",
    ) -> None:
        self._directory, self._suffix = directory, suffix
        self._keys = tuple(keys)
        self._whole = schema
        self._schema = pa.schema([f for f in schema if f.name not in keys])
        self._stamp = stamp
        self._file_bytes = file_bytes
        self._sink = ParquetSink()
        self._open: OrderedDict[str, _File] = OrderedDict()
        self._done: list[PartFile] = []
        self.names: list[str] = []
        """Every file that was begun, by its name below the directory."""

    def add(self, part: Path) -> None:
        """Spread the rows of one part."""
        for batch in read_part(part, _ROWS):
            if batch.schema != self._whole:
                batch = batch.select(self._whole.names).cast(self._whole)
            for where, rows in _split(batch, self._keys):
                self._write(where, rows.select(self._schema.names))

    def close(self) -> list[PartFile]:
        """Close what is open; every file that was written, durable, by its name below the directory."""
        while self._open:
            self._finish(next(iter(self._open)))
        if not self._done:  # no rows are an output, too
            self._begin("")
            self._finish("")
        for path in {self._directory / f.name for f in self._done}:
            for above in path.parents:
                sync_directory(above)
                if above == self._directory:
                    break
        return sorted(self._done, key=lambda f: f.name)

    def abandon(self) -> None:
        """Close what is open; it means nothing."""
        while self._open:
            file = self._open.popitem()[1]
            with suppress(OSError, pa.ArrowException):  # as where the disk is full
                file.part.close()

    def _write(self, where: str, rows: pa.RecordBatch) -> None:
        file = self._open.get(where) or self._begin(where)
        self._open.move_to_end(where)
        file.part.write(rows)
        file.rows += rows.num_rows
        if file.path.stat().st_size + file.part.held >= self._file_bytes:
            file.part.flush()
            if file.path.stat().st_size >= self._file_bytes:
                self._finish(where)
        if len(self._open) > _OPEN:
            self._finish(next(iter(self._open)))
        if sum(f.part.held for f in self._open.values()) > _HELD:
            max(self._open.values(), key=lambda f: f.part.held).part.flush()

    def _begin(self, where: str) -> _File:
        name = f"{where}part-{len(self.names):05d}{self._suffix}{self._sink.suffix}"
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.names.append(name)
        self._open[where] = file = _File(name, path, self._sink.open(path, self._schema, self._stamp))
        return file

    def _finish(self, where: str) -> None:
        file = self._open.pop(where)
        file.part.close()
        self._done.append(msgspec.structs.replace(part_file(file.path, file.rows), name=file.name))


def _split(batch: pa.RecordBatch, keys: Sequence[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each directory (`a=1/b=x/`), in their order."""
    if not keys:
        yield "", batch
        return
    codes = np.zeros(batch.num_rows, np.int64)
    names: list[list[str]] = []
    for key in keys:
        column = batch.column(key)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        coded = column.cast(pa.string()).dictionary_encode("encode")
        values = [f"{quote(key, safe='')}={_directory(v)}/" for v in coded.dictionary.to_pylist()]
        names.append(values)
        codes = codes * len(values) + coded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    found, starts = np.unique(codes[order], return_index=True)
    for code, start, stop in zip(found.tolist(), starts, [*starts[1:], len(order)], strict=True):
        where = ""
        for values in reversed(names):
            code, index = divmod(code, len(values))
            where = values[index] + where
        yield where, batch.take(pa.array(order[start:stop]))


def _directory(value: str | None) -> str:
    if value is None:
        return NULL_PARTITION
    text = quote(value, safe="")
    return text.replace("_", "%5F", 1) if text == NULL_PARTITION else text


def _inner(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_
