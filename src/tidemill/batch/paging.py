"""Parquet in batches of bounded bytes, whatever a file holds: one giant row group, huge texts, rows that are alike.

Encoded columns tell little of what they become: a text that repeats stands once in its dictionary, a vector of zeros
takes no room at all. So texts with a dictionary are read as dictionaries and spelled out a slice at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["CHUNK_BYTES", "bounded", "paged"]

# A chunk of wide rows (images, embeddings) is cut by its bytes before it reaches its rows.
CHUNK_BYTES = 16 << 20

# Of rows whose width varies so many are read at a time, and gathered: the wide ones may stand together.
_STEP = 1024
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8, "FIXED_LEN_BYTE_ARRAY": 16}


def paged(
    open_: Callable[[list[str]], pq.ParquetFile], groups: Sequence[int] | None, columns: Sequence[str] | None, rows: int
) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows and about CHUNK_BYTES, of these row groups and columns (None: all of them).

    `open_` opens the file, with the columns named to it as dictionaries. Raises ArrowException and OSError.
    """
    with open_([]) as file:
        wanted = list(range(file.metadata.num_row_groups)) if groups is None else list(groups)
        names = file.schema_arrow.names if columns is None else list(columns)
        size = _row_bytes(file.metadata, wanted, set(names))
        alike = _alike(file, wanted, names, rows)
        if not alike:
            yield from _gathered(file, wanted, names, alike, rows, size)
            return
    with open_(alike) as file:
        yield from _gathered(file, wanted, names, alike, rows, size)


def bounded(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """A batch in slices of at most `rows` rows and about CHUNK_BYTES bytes."""
    step = rows
    if batch.nbytes > CHUNK_BYTES:
        step = max(1, min(step, batch.num_rows * CHUNK_BYTES // batch.nbytes))
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


def _row_bytes(meta: Any, groups: Sequence[int], names: set[str]) -> int:
    """Bytes of a row of the widest group, on average: as numbers lie in memory, and as texts lie in the file."""
    most = 0
    for i in groups:
        group = meta.row_group(i)
        total = 0
        for chunk in (group.column(j) for j in range(group.num_columns)):
            if chunk.path_in_schema.split(".")[0] in names:
                width = _WIDTHS.get(chunk.physical_type, 4)
                total += max(chunk.total_uncompressed_size, chunk.num_values * width)
        most = max(most, total // max(1, group.num_rows))
    return most


def _alike(file: pq.ParquetFile, groups: Sequence[int], names: Sequence[str], rows: int) -> list[str]:
    """Text columns of which a batch could be far more than CHUNK_BYTES, if every row held the longest of its texts."""
    texts = {f.name for f in file.schema_arrow if f.name in names and _is_text(f.type)}
    found = set()
    for i in groups:
        group = file.metadata.row_group(i)
        for chunk in (group.column(j) for j in range(group.num_columns)):
            name = chunk.path_in_schema
            if name in texts and chunk.has_dictionary_page:
                longest = chunk.total_uncompressed_size
                if longest * min(rows, _STEP) > 2 * CHUNK_BYTES:
                    found.add(name)
    return sorted(found)


def _gathered(
    file: pq.ParquetFile, groups: Sequence[int], names: Sequence[str], alike: Sequence[str], rows: int, size: int
) -> Iterator[pa.RecordBatch]:
    rows = max(1, min(rows, CHUNK_BYTES // size)) if size else rows
    varies = any(_varies(file.schema_arrow.field(n).type) for n in names)
    step = min(rows, _STEP) if varies else rows
    held: list[pa.RecordBatch] = []
    # One thread a reader: parallelism is by shards. Pages come through a small buffer, so that a row group of any size
    # is never held whole.
    for batch in file.iter_batches(step, row_groups=groups, columns=names, use_threads=False):
        for part in _spelled(batch, alike):
            if held and sum(b.num_rows for b in held) + part.num_rows > rows:
                yield _joined(held)
                held = []
            held.append(part)
            if sum(b.nbytes for b in held) >= CHUNK_BYTES or step == rows:
                yield _joined(held)
                held = []
    if held:
        yield _joined(held)


def _joined(held: list[pa.RecordBatch]) -> pa.RecordBatch:
    return held[0] if len(held) == 1 else pa.concat_batches(held)


def _spelled(batch: pa.RecordBatch, alike: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Slices of about CHUNK_BYTES in which the texts that were read as dictionaries are spelled out."""
    if not alike:
        yield from bounded(batch, max(1, batch.num_rows))
        return
    sizes = np.zeros(batch.num_rows, np.int64)
    for name in alike:
        column = batch.column(name)
        lengths = pc.binary_length(column.dictionary).take(column.indices).cast(pa.int64())
        # Of a null the length is whatever stands there. `to_numpy` would load pandas, which takes a second.
        sizes += np.frombuffer(lengths.buffers()[1], np.int64, len(lengths), 8 * lengths.offset)
    ends = np.cumsum(sizes)
    start = 0
    while start < batch.num_rows:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHUNK_BYTES, "right")))
        part = batch.slice(start, stop - start)
        columns = [part.column(n).dictionary_decode() if n in alike else part.column(n) for n in part.schema.names]
        yield pa.RecordBatch.from_arrays(columns, part.schema.names)
        start = stop


def _is_text(type_: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(type_) or types.is_large_string(type_) or types.is_binary(type_) or types.is_large_binary(type_)
    )


def _varies(type_: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(type_):
        return _varies(type_.value_type)
    return _is_text(type_) or bool(pa.types.is_nested(type_) or pa.types.is_dictionary(type_))
