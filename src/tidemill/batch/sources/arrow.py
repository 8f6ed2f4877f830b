"""Arrow IPC files (`.arrow`, `.feather`): units are record batches; only the columns asked for are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import pyarrow as pa

from tidemill.batch.blobs import Blob
from tidemill.batch.sources.arrow_footer import Block, read_blocks
from tidemill.batch.sources.base import Examined, Piece, Unit, bounded, conform, unique, unreadable
from tidemill.errors import SourceError, first_line

__all__ = ["ArrowSource"]

# Batches larger than this are mapped where they can be, and not read: a file may be one giant batch.
_MAPPED = 64 << 20
_STREAM = b"\xff\xff\xff\xff"


class ArrowSource:
    """Types come from the file. A record batch is held whole; a large one that lies uncompressed on this machine is
    mapped instead.
    """

    def examine(self, file: Blob, types: Mapping[str, pa.DataType]) -> Examined:
        del types  # the file carries its own
        with _opened(file) as reader:
            schema = reader.schema
        unique(schema.names, file.name)
        units: list[Unit] = []
        row = 0
        for i, block in enumerate(_blocks(file)):
            units.append(Unit(i, i + 1, row, block.rows, block.nbytes))
            row += block.rows
        return Examined(schema.remove_metadata(), units or [Unit(0, 0, 0, 0, 0)])

    def read(self, file: Blob, piece: Piece, schema: pa.Schema, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        row = piece.first_row
        blocks = _blocks(file)[piece.start : piece.stop]
        mapped = file.path is not None and any(b.nbytes > _MAPPED and not b.compressed for b in blocks)
        with _opened(file, None if mapped else schema.names, mapped=mapped) as reader:
            for i in range(piece.start, piece.stop):
                for part in bounded(_batch(reader, i, schema.names, file.name, row), chunk_rows):
                    try:
                        part.validate(full=True)  # a file may lie about offsets and text; what follows believes it
                    except pa.ArrowException as error:
                        raise unreadable(file.name, row, error) from None
                    yield conform(part, schema, file.name, row)
                    row += part.num_rows


@contextmanager
def _opened(
    file: Blob, columns: Sequence[str] | None = None, *, mapped: bool = False
) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """A reader of these columns, or of all. What is mapped is not read before it is used."""
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(pa.memory_map(str(file.path)) if mapped else _stream(file))
            reader = stack.enter_context(pa.ipc.open_file(stream))
            names = reader.schema.names  # raises where one is not UTF-8
            if columns is not None:
                fields = [names.index(n) for n in columns]
                options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
                reader = stack.enter_context(pa.ipc.open_file(stream, options=options))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _not_arrow(file, error) from None
        yield reader


def _blocks(file: Blob) -> list[Block]:
    try:
        with file.open() as stream:
            return read_blocks(stream)
    except (ValueError, OSError) as error:
        raise _not_arrow(file, error) from None


def _stream(file: Blob) -> pa.NativeFile:
    return pa.OSFile(str(file.path)) if file.path is not None else pa.PythonFile(file.open(), "r")


def _not_arrow(file: Blob, error: Exception) -> SourceError:
    with file.open() as stream:
        streamed = stream.read(4) == _STREAM
    why = first_line(error)
    if streamed:
        why = "it holds the stream format; write it with a file writer, as pyarrow.ipc.new_file or Feather do"
    return SourceError(f"{file.name}: not a readable Arrow IPC file: {why}")


def _batch(
    reader: pa.ipc.RecordBatchFileReader, index: int, columns: Sequence[str], name: str, row: int
) -> pa.RecordBatch:
    try:
        batch = reader.get_batch(index).select(columns)
        batch.validate()
    except (pa.ArrowException, OSError) as error:
        raise unreadable(name, row, error) from None
    return batch
