"""JSON lines: model inputs have the signature's types, other columns those of the first lines; a missing key is null.

No line end stands inside a JSON value, so any plain file is cut into ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import orjson
import pyarrow as pa
import pyarrow.json as pa_json

from tidemill.batch.blobs import Blob
from tidemill.batch.places import compression
from tidemill.batch.sources.base import Examined, Piece, Unit, bounded, unreadable
from tidemill.batch.sources.text import WHOLE, check_line, head, open_range, scan_lines
from tidemill.errors import SourceError, first_line

__all__ = ["JsonlSource"]

_BLOCK = 2 << 20
_SAMPLE = 1 << 20


class JsonlSource:
    """Reads one JSON object a line, UTF-8. Blank lines are no rows."""

    def examine(self, file: Blob, types: Mapping[str, pa.DataType]) -> Examined:
        name = file.name
        schema = _schema(head(file, _SAMPLE), types, name)
        if compression(name) is not None:
            return Examined(schema, [Unit(0, WHOLE, 0, None, file.size())])
        scan = scan_lines(file)
        if scan.blank:  # lines are not rows: the rows before a range are known only by reading them
            return Examined(schema, [Unit(0, file.size(), 0, None, file.size())])
        return Examined(schema, scan.units)

    def read(self, file: Blob, piece: Piece, schema: pa.Schema, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        name = file.name
        row = piece.first_row
        with open_range(file, piece.start, piece.stop) as stream:
            rest = bytearray()
            while True:
                try:
                    block = stream.read(_BLOCK)
                except (pa.ArrowException, OSError) as error:
                    raise unreadable(name, row, error) from None
                cut = block.rfind(b"\n") + 1 if block else 0
                if block and not cut:
                    rest += block
                    check_line(len(rest), name)
                    continue
                rest += block[:cut]
                lines, rest = bytes(rest), bytearray(block[cut:])
                if lines.strip():
                    table = _parse(lines, schema, name, row)
                    for batch in table.combine_chunks().to_batches():
                        for part in bounded(batch, chunk_rows):
                            yield part
                            row += part.num_rows
                if not block:
                    return


def _schema(sample: bytes, types: Mapping[str, pa.DataType], name: str) -> pa.Schema:
    """The columns of the first lines. One whose values have no common type cannot be read, and is left out."""
    lines = sample.split(b"\n")
    known: dict[str, pa.DataType | None] = {k: _json_type(t) for k, t in types.items()}
    values: dict[str, list[object]] = {}
    row = 0
    for line in lines:
        if line.strip():
            for key, value in _object(line, name, row).items():
                values.setdefault(key, []).append(value)
            row += 1
    found = {k: known[k] if k in known else _inferred(v) for k, v in values.items()}
    return pa.schema([(k, t) for k, t in found.items() if t is not None])


def _object(line: bytes, name: str, row: int) -> dict[str, object]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise SourceError(f"{name}: row {row}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise SourceError(f"{name}: row {row}: expected a JSON object, got {type(found).__name__}")
    return found


def _inferred(values: list[object]) -> pa.DataType | None:
    if any(type(v) is int and v >= 1 << 63 for v in values) and all(type(v) is int and v >= 0 for v in values if v):
        return pa.uint64()  # a double would keep no such number as it is
    data = b"".join(orjson.dumps({"v": v}) + b"\n" for v in values)
    try:
        options = pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1)
        return _plain(pa_json.read_json(pa.BufferReader(data), read_options=options).schema.field("v").type)
    except pa.ArrowException:
        return None


def _parse(lines: bytes, schema: pa.Schema, name: str, row: int) -> pa.Table:
    """Whole lines as a table with one row a line."""
    try:
        return _table(lines, schema)
    except (pa.ArrowException, OSError) as error:
        raise _first_bad(lines, schema, name, row) or unreadable(name, row, error) from None


def _table(lines: bytes, schema: pa.Schema) -> pa.Table:
    """Raises ArrowException for lines that are not one object each, and for values that do not fit."""
    table = pa_json.read_json(
        pa.BufferReader(lines),
        read_options=pa_json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    ).select(schema.names)
    table.validate(full=True)  # text is taken as it is, UTF-8 or not
    if table.num_rows != lines.count(b"\n") + (not lines.endswith(b"\n")):
        expected = sum(1 for line in lines.split(b"\n") if line.strip())
        if table.num_rows != expected:
            raise pa.ArrowInvalid(f"{expected} lines hold {table.num_rows} objects; expected one a line")
    return table


def _first_bad(lines: bytes, schema: pa.Schema, name: str, row: int) -> SourceError | None:
    """Once a block has failed: the first line at fault, by halving. None where each half can be read by itself."""
    rows = [line for line in lines.split(b"\n") if line.strip()]
    while len(rows) > 1:
        half = len(rows) // 2
        try:
            _table(b"\n".join(rows[:half]), schema)
        except (pa.ArrowException, OSError):
            rows = rows[:half]
        else:
            rows, row = rows[half:], row + half
    try:
        found = _object(rows[0], name, row)
    except SourceError as error:
        return error
    for field in schema:
        if field.name in found and not _fits(found[field.name], field):
            shown = orjson.dumps(found[field.name]).decode()[:60]
            return SourceError(f"{name}: row {row}, column {field.name!r}: {shown} cannot become {field.type}")
    try:
        _table(rows[0], schema)
    except (pa.ArrowException, OSError) as error:
        return SourceError(f"{name}: row {row}: {first_line(error)}")
    return None


def _fits(value: object, field: pa.Field) -> bool:
    line = orjson.dumps({field.name: value}) + b"\n"
    try:
        pa_json.read_json(
            pa.BufferReader(line),
            read_options=pa_json.ReadOptions(use_threads=False),
            parse_options=pa_json.ParseOptions(explicit_schema=pa.schema([field])),
        )
    except pa.ArrowException:
        return False
    return True


def _json_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(type_) or pa.types.is_list(type_):
        return pa.list_(_json_type(type_.value_type))
    return pa.float32() if pa.types.is_float16(type_) else type_


def _plain(type_: pa.DataType) -> pa.DataType:
    """A type that later lines will fit too: text that looks like a time stays text, only-null is text."""
    if pa.types.is_timestamp(type_) or pa.types.is_null(type_):
        return pa.string()
    if pa.types.is_list(type_):
        return pa.list_(_plain(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(f.name, _plain(f.type)) for f in type_])
    return type_
