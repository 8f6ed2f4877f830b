"""`iceberg:NAMESPACE.TABLE?snapshot=ID&catalog=NAME`: a snapshot's data files, or a copy where they are not its rows.

Catalogs are those of PyIceberg's own configuration: `.pyiceberg.yaml`, or PYICEBERG_CATALOG__NAME__URI and its kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pyarrow as pa

from tidemill.batch.inputs import Asked, Found, Origin
from tidemill.batch.lake.footers import have_columns
from tidemill.batch.places import InputFile, Place
from tidemill.batch.spool import copy, finish, spooled
from tidemill.errors import ConfigError, MissingExtra, SourceError, first_line

if TYPE_CHECKING:
    from pyiceberg.table import DataScan, FileScanTask, Table

__all__ = ["find"]

_NONE = "none"


def find(place: Place, asked: Asked) -> Found | None:
    """The files of a snapshot: the one asked for, that of the run that is resumed, or the newest.

    Snapshots with deleted rows, tables whose columns were changed, and files that are not Parquet are copied into the
    spool. Raises SourceError where there is no such catalog, table or snapshot, ConfigError for an option that is none.
    """
    if asked.spool is not None:
        found = spooled(asked.spool)
        if found is not None:
            return found
    elif asked.pinned is not None:
        return None  # what it read then may be vacuumed by now, and never becomes other rows
    with _told(place.shown):
        table = _open(place)
        scan, snapshot = _scan(table, place, asked)
        read = {"snapshot_id": snapshot, "table_uuid": str(table.metadata.table_uuid)}
        origin = Origin(kind="iceberg", uri=place.shown, read=read)
        columns = asked.wanted([f.name for f in scan.projection().fields])
        tasks = list(scan.plan_files()) if snapshot != _NONE else []
        placed = _placed(tasks, table.location())
        if placed is not None and len(table.schemas()) == 1 and have_columns(*placed, columns):
            return Found(placed[0], "parquet", placed[1], origin)
        if asked.spool is None:
            return None
        schema, batches = _batches(scan, columns)
        copied = copy(asked.spool, schema, batches)
    return finish(asked.spool, Found(str(asked.spool), "parquet", copied, origin))


def _open(place: Place) -> Table:
    from pyiceberg.catalog import load_catalog

    unknown = next((o for o in place.options if o not in ("snapshot", "catalog")), None)
    if unknown is not None:
        raise ConfigError(f"source {place.shown}: unknown option {unknown}; expected snapshot, catalog")
    name = place.body.strip("/")
    if "." not in name:
        raise ConfigError(f"source {place.shown}: expected iceberg:NAMESPACE.TABLE, got {name!r}")
    return load_catalog(place.options.get("catalog")).load_table(name)


def _scan(table: Table, place: Place, asked: Asked) -> tuple[DataScan, str]:
    """The scan of a snapshot, and its id."""
    text = place.options.get("snapshot") or (asked.pinned.read.get("snapshot_id") if asked.pinned is not None else None)
    if text is None:
        current = table.current_snapshot()
        text = str(current.snapshot_id) if current is not None else _NONE
    if text == _NONE:
        return table.scan(), text
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ConfigError(f"source {place.shown}: snapshot: expected a snapshot's id, got {text!r}")
    if table.snapshot_by_id(int(text)) is None:
        raise SourceError(f"{place.shown}: there is no snapshot {text}; it never was, or has expired")
    return table.scan(snapshot_id=int(text)), text


def _placed(tasks: Sequence[FileScanTask], location: str) -> tuple[str, list[InputFile]] | None:
    """The root and files of a scan whose files hold its rows as they are, all below the table; None for another."""
    root = _plain(location)
    names = []
    for task in tasks:
        path = _plain(task.file.file_path)
        if task.delete_files or str(task.file.file_format.value) != "PARQUET" or not path.startswith(root + "/"):
            return None
        names.append(path.removeprefix(root + "/"))
    return (root, [InputFile(name=n) for n in sorted(names)]) if names else None


def _plain(uri: str) -> str:
    """A path of this machine or a store's URI, as Tidemill writes them."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return os.path.normpath(parts.path)
    scheme = "s3" if parts.scheme in ("s3a", "s3n") else parts.scheme
    return f"{scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _batches(scan: DataScan, columns: Sequence[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    reader = scan.select(*columns).to_arrow_batch_reader()
    schema = pa.schema([pa.field(n, reader.schema.field(n).type) for n in columns])

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            yield pa.RecordBatch.from_arrays([batch.column(n) for n in columns], schema=schema)

    return schema, batches()


@contextmanager
def _told(shown: str) -> Iterator[None]:
    """What PyIceberg and its catalogs raise, as one line."""
    try:
        from pyiceberg import exceptions
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError:
        raise MissingExtra("iceberg:", "lake") from None
    try:
        yield
    except (exceptions.NoSuchTableError, exceptions.NoSuchNamespaceError):
        raise SourceError(f"{shown}: there is no such table in the catalog") from None
    except (
        *(exceptions.RESTError, exceptions.ValidationError, exceptions.NotInstalledError, SQLAlchemyError),
        *(pa.ArrowException, OSError, ValueError, ModuleNotFoundError),
    ) as error:
        raise SourceError(f"{shown}: {first_line(error)}") from error
