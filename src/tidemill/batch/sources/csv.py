"""CSV: types come from the signature, never from a block of the file; columns the model does not read stay text.

An empty unquoted cell is null, `""` is empty text. A file without quotes and blank lines is cut into ranges; any
other is read in one go, because only reading it from its start tells which line ends are row ends.
"""

from __future__ import annotations

import io
import re
import secrets
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.csv as pa_csv

from tidemill.batch.blobs import Blob
from tidemill.batch.places import compression
from tidemill.batch.sources.base import Examined, Piece, Unit, bounded, unique, unreadable
from tidemill.batch.sources.text import WHOLE, head, open_range, scan_lines
from tidemill.errors import SourceError

__all__ = ["CsvSource"]

_BLOCK = 4 << 20
_ROW = re.compile(r"Row #(\d+): ")
_COLUMN = re.compile(r"In CSV column #(\d+): ")


class CsvSource:
    """Reads RFC 4180: a header line, commas, double quotes, UTF-8."""

    def examine(self, file: Blob, types: Mapping[str, pa.DataType]) -> Examined:
        name = file.name
        names = _header(file)
        schema = pa.schema([(n, _csv_type(types.get(n, pa.string()), n, name)) for n in names])
        if compression(name) is not None:
            return Examined(schema, [Unit(0, WHOLE, 0, None, file.size())])
        scan = scan_lines(file)
        if scan.quoted or scan.blank:
            return Examined(schema, [Unit(0, file.size(), 0, None, file.size())])
        units = [  # the header is a line of the first range, and no row
            Unit(u.start, u.stop, max(0, u.first_row - 1), (u.rows or 0) - (u.start == 0), u.nbytes) for u in scan.units
        ]
        return Examined(schema, units)

    def read(self, file: Blob, piece: Piece, schema: pa.Schema, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        name = file.name
        names = _header(file)
        if piece.rows == 0:  # a header alone, which may not end its line
            return
        first = piece.start == 0
        row = piece.first_row
        # Of a file without a quote, a range can end in no quoted cell.
        end = _End(len(names)) if piece.rows is None else None
        parse = pa_csv.ParseOptions(
            newlines_in_values=True,
            ignore_empty_lines=len(names) > 1,
            invalid_row_handler=None if end is None else end.meet,
        )
        convert = pa_csv.ConvertOptions(
            column_types=schema,
            include_columns=schema.names,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        # Threads would cost the row number in errors; parallelism is by shards.
        reading = pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=None if first else names)
        with open_range(file, piece.start, piece.stop) as stream:
            try:
                ended = stream if end is None else pa.PythonFile(_Ended(stream, end.row), "r")
                with pa_csv.open_csv(ended, reading, parse, convert) as reader:
                    for batch in reader:
                        for part in bounded(batch, chunk_rows):
                            yield part
                            row += part.num_rows
            except (pa.ArrowException, OSError) as error:
                if str(error) == "Empty CSV file":
                    return
                raise _told(name, names, piece, first, row, error) from None
        if end is not None and not end.met:
            raise SourceError(
                f"{name}: a cell that begins with a double quote is not closed: it holds the rest of the file; close "
                "it, or double a quote that is text and put quotes around its cell"
            )


class _End:
    """A row that is put after the last one, and that the parser meets unless it is inside quotes then: PyArrow takes
    the end of a file for the end of a cell, and all rows from an open quote on for its text.
    """

    def __init__(self, columns: int) -> None:
        self._text = secrets.token_hex(16) + "," * columns
        self.met = False

    @property
    def row(self) -> bytes:
        return self._text.encode() + b"\n"

    def meet(self, row: pa_csv.InvalidRow) -> str:
        """Skips it; any other row with too many cells, or too few, is an error."""
        if row.text != self._text:
            return "error"
        self.met = True
        return "skip"


class _Ended(io.RawIOBase):
    """A stream with a line at its end. Only its last block is short: PyArrow wants a whole header in the first one."""

    def __init__(self, stream: pa.NativeFile, line: bytes) -> None:
        self._stream, self._line = stream, line
        self._last = b"\n"
        self._over = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = bytearray()
        while len(data) < size and (block := self._next(size - len(data))):
            data += block
        return bytes(data)

    def _next(self, size: int) -> bytes:
        block: bytes = b"" if self._over else self._stream.read(size)
        if block:
            self._last = block[-1:]
            return block
        if not self._over:
            self._over = True
            self._line = self._line if self._last in b"\r\n" else b"\n" + self._line
        block, self._line = self._line[:size], self._line[size:]
        return block


def _told(name: str, names: list[str], piece: Piece, first: bool, row: int, error: Exception) -> SourceError:
    """Arrow's message with the row of the file, counted from 0 after the header, and the column by its name."""
    text = str(error)
    at = _ROW.search(text)
    if "straddling" in text:
        return SourceError(
            f"{name}: a row after row {row} has more than {_BLOCK >> 20} MiB; if it has not, a double quote before it "
            "is not closed"
        )
    if at is None:
        return unreadable(name, row, error)
    found = piece.first_row + int(at[1]) - (2 if first else 1)
    column = _COLUMN.search(text)
    reason = text[at.end() :].splitlines()[0]
    where = f", column {names[int(column[1])]!r}" if column and int(column[1]) < len(names) else ""
    return SourceError(f"{name}: row {found}{where}: {reason}")


def _header(file: Blob) -> list[str]:
    name = file.name
    text = head(file, 1 << 16)
    if not text.strip():
        raise SourceError(f"{name}: is empty; a CSV file begins with a line of column names")
    try:
        record = _first_record(text)
        options = pa_csv.ReadOptions(use_threads=False, block_size=len(record))
        everything = pa_csv.ConvertOptions(column_types={}, null_values=[])
        with pa_csv.open_csv(
            pa.BufferReader(record), options, pa_csv.ParseOptions(newlines_in_values=True), everything
        ) as reader:
            names: list[str] = reader.schema.names
    except UnicodeDecodeError:
        raise SourceError(f"{name}: its line of column names is not UTF-8; convert the file") from None
    except pa.ArrowException as error:
        raise SourceError(f"{name}: its line of column names cannot be read: {error}") from None
    unique(names, name)
    return names


def _first_record(text: bytes) -> bytes:
    """The header: up to the first line end outside quotes."""
    end = -1
    while True:
        end = text.find(b"\n", end + 1)
        if end < 0:
            return text + b"\n"
        if text.count(b'"', 0, end) % 2 == 0:
            return text[: end + 1]


def _csv_type(type_: pa.DataType, column: str, name: str) -> pa.DataType:
    if pa.types.is_nested(type_):
        raise SourceError(f"{name}: column {column!r} is a tensor, which a CSV cell cannot hold; use Parquet")
    return pa.float32() if pa.types.is_float16(type_) else type_
