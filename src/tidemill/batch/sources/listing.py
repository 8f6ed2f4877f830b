"""Listings: tables that name files of a directory, each file a row. What `files:` finds is written down as these.

A listing holds a file's path below the directory, its size and its modification time, so that a plan of millions of
files stays small and a file that was changed afterwards is refused when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa

from tidemill.batch.blobs import Blob
from tidemill.batch.sources.base import CHUNK_BYTES, Examined, Piece, Unit
from tidemill.config import Config
from tidemill.errors import SourceError

__all__ = ["PATH", "Listed", "ListingSource", "write_listing"]

PATH = "path"
_SCHEMA = pa.schema([(PATH, pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64())])
_ABOUT = b"tidemill.listing"
_UNIT_ROWS = 512
_UNIT_BYTES = 16 << 20
# What one cell of an Arrow binary column can hold.
_CELL_BYTES = (1 << 31) - 1


class Listed(Config, frozen=True, kw_only=True):
    """What a listing says of all its files: the directory, and the names of the columns that hold their contents."""

    root: str
    bytes: str | None
    text: str | None


def write_listing(path: Path, about: Listed, files: Sequence[tuple[str, int, int]]) -> None:
    """A listing of files: path below the root, size in bytes, modification time in ns. Raises OSError."""
    columns = [pa.array(column, f.type) for column, f in zip(zip(*files, strict=True), _SCHEMA, strict=True)]
    table = pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata({_ABOUT: msgspec.json.encode(about)}))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


class ListingSource:
    """Columns are `path`, and the content as bytes and as text; text is null for a file that is not UTF-8."""

    def examine(self, file: Blob, types: Mapping[str, pa.DataType]) -> Examined:
        del types  # a content is what it is
        about, table = _load(file)
        units: list[Unit] = []
        start = nbytes = 0
        for i, size in enumerate(table["size"].to_pylist()):
            if size > _CELL_BYTES:
                raise SourceError(f"{table[PATH][i]}: has {size} bytes; a row holds at most {_CELL_BYTES}")
            nbytes += size
            if i + 1 - start >= _UNIT_ROWS or nbytes >= _UNIT_BYTES:
                units.append(Unit(start, i + 1, start, i + 1 - start, nbytes))
                start, nbytes = i + 1, 0
        if start < len(table):
            units.append(Unit(start, len(table), start, len(table) - start, nbytes))
        fields = [pa.field(PATH, pa.string())]
        fields += [pa.field(about.bytes, pa.binary())] if about.bytes is not None else []
        fields += [pa.field(about.text, pa.string())] if about.text is not None else []
        return Examined(pa.schema(fields), units)

    def read(self, file: Blob, piece: Piece, schema: pa.Schema, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        about, table = _load(file)
        rows: list[tuple[str, bytes]] = []
        held = 0
        contents = any(n != PATH for n in schema.names)
        for row in table.slice(piece.start, piece.stop - piece.start).to_pylist():
            if rows and (len(rows) >= chunk_rows or (contents and held + row["size"] > CHUNK_BYTES)):
                yield _batch(rows, about, schema)
                rows, held = [], 0
            rows.append((row[PATH], _content(about.root, row, contents)))
            held += row["size"]
        if rows:
            yield _batch(rows, about, schema)


def _load(file: Blob) -> tuple[Listed, pa.Table]:
    try:
        with file.open() as stream, pa.ipc.open_file(stream) as reader:
            table = reader.read_all()
            return msgspec.json.decode(table.schema.metadata[_ABOUT], type=Listed), table
    except (pa.ArrowException, OSError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise SourceError(f"{file.name}: not a readable listing of files: {error}") from None


def _content(root: str, row: Mapping[str, object], wanted: bool) -> bytes:
    """The bytes of a file that is still the listed one."""
    name = str(row[PATH])
    try:
        with open(Path(root) / name, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            data = file.readall() if wanted else b""
    except OSError as error:
        raise SourceError(f"{name}: cannot be read: {error.strerror}") from None
    same = (found.st_size, found.st_mtime_ns) == (row["size"], row["mtime_ns"])
    if not same or (wanted and len(data) != row["size"]):
        raise SourceError(f"{name}: was changed after the run was planned; begin a new run")
    return data


def _batch(rows: Sequence[tuple[str, bytes]], about: Listed, schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for field in schema:
        if field.name == about.text:
            column = pa.array([_decoded(data) for _, data in rows], pa.string())
        elif field.name == about.bytes:
            column = pa.array([data for _, data in rows], pa.binary())
        else:
            column = pa.array([path for path, _ in rows], pa.string())
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
