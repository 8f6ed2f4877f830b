"""`delta:PATH?version=N`: the data files of one version, read in place, or a copy of what only the library can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from tidemill.batch.inputs import Asked, Found, Origin
from tidemill.batch.lake.footers import have_columns
from tidemill.batch.lake.tables import delta_errors, location, open_delta
from tidemill.batch.places import InputFile, Place
from tidemill.batch.spool import copy, finish, spooled
from tidemill.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["find"]

# What a partition's value can be in the log's text and become again, beside text itself.
_PLAIN = {"string": "string", "byte": "int8", "short": "int16", "integer": "int32", "long": "int64", "date": "date32"}
# Reader features that, as far as _plain has looked, change neither which rows a file holds nor what they are called.
_HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "columnMapping"}


def find(place: Place, asked: Asked) -> Found | None:
    """The files of a version: the one asked for, that of the run that is resumed, or the newest.

    Tables with deletion vectors, column mapping or another feature that changes how files are read, and versions whose
    files lack a column that came later, are copied into the spool. Raises SourceError where there is no such table or
    version, ConfigError for an option that is none.
    """
    if asked.spool is not None:
        found = spooled(asked.spool)
        if found is not None:
            return found
    elif asked.pinned is not None:
        return None  # what it read then may be vacuumed by now, and never becomes other rows
    version = _version(place, asked)
    uri = location(place)
    table = open_delta(uri, place.shown, SourceError, version)
    if table is None:
        raise SourceError(f"{place.shown}: there is no Delta table")
    with delta_errors(place.shown, SourceError):
        schema = pa.schema(table.schema().to_arrow())
        read = {"version": str(table.version()), "table_id": str(table.metadata().id)}
        origin = Origin(kind="delta", uri=place.shown, read=read)
        columns = asked.wanted(schema.names)
        files, types = _files(table), _partition_types(table)
    inside = not any("://" in f.name or f.name.startswith("/") for f in files)  # not so in a shallow clone
    if files and inside and types is not None and _plain(table) and have_columns(uri, files, columns):
        return Found(uri, "parquet", files, origin, types)
    if asked.spool is None:
        return None
    wanted = pa.schema([schema.field(n) for n in columns])
    with delta_errors(place.shown, SourceError):
        copied = copy(asked.spool, wanted, _batches(table, wanted))
    return finish(asked.spool, Found(str(asked.spool), "parquet", copied, origin))


def _version(place: Place, asked: Asked) -> int | None:
    unknown = next((o for o in place.options if o != "version"), None)
    if unknown is not None:
        raise ConfigError(f"source {place.shown}: unknown option {unknown}; expected version")
    text = place.options.get("version") or (asked.pinned.read.get("version") if asked.pinned is not None else None)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ConfigError(f"source {place.shown}: version: expected a number from 0, got {text!r}")
    return int(text)


def _files(table: DeltaTable) -> list[InputFile]:
    """The data files in order of their names, each with its partition's values as text."""
    actions = pa.table(table.get_add_actions())
    keys = table.metadata().partition_columns
    paths = [unquote(p) for p in actions["path"].to_pylist()]
    values = {k: pa.compute.struct_field(actions["partition"], k).cast(pa.string()).to_pylist() for k in keys}
    files = [InputFile(name=p, partition={k: values[k][i] for k in keys}) for i, p in enumerate(paths)]
    return sorted(files, key=lambda f: f.name)


def _partition_types(table: DeltaTable) -> dict[str, str] | None:
    """The Arrow types of the partition columns, or None where one's values are more than a text tells."""
    keys = table.metadata().partition_columns
    types = {f["name"]: f["type"] for f in json.loads(table.schema().to_json())["fields"] if f["name"] in keys}
    if any(t not in _PLAIN for t in types.values()):
        return None
    return {k: _PLAIN[t] for k, t in types.items()}


def _plain(table: DeltaTable) -> bool:
    """Whether the data files hold the rows of the table as they are."""
    protocol = table.protocol()
    mapped = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
    features = set(protocol.reader_features or ())
    if "deletionVectors" in features and not _any_deleted(table):
        features.remove("deletionVectors")
    return not mapped and features <= _HARMLESS


def _any_deleted(table: DeltaTable) -> bool:
    return any(batch.num_rows for batch in pa.RecordBatchReader.from_stream(table.deletion_vectors()))


def _batches(table: DeltaTable, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    with pa.RecordBatchReader.from_stream(table.scan(columns=wanted.names)) as reader:
        for batch in reader:
            yield batch.cast(wanted) if batch.schema != wanted else batch
