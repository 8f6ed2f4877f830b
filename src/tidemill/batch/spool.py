"""The spool: a copy of an input that cannot be read in place, as Parquet files, kept while its run may be resumed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pyarrow as pa

from tidemill.batch.inputs import Found
from tidemill.batch.ledger import disk_refused, sync_directory, write_durably
from tidemill.batch.places import InputFile
from tidemill.batch.sinks.parquet import ParquetSink

__all__ = ["copy", "finish", "spooled"]

_DONE = "done.json"
_FILE_ROWS = 1 << 20
_FILE_BYTES = 256 << 20


def spooled(spool: Path) -> Found | None:
    """What an earlier execution of the run found and finished. None, and an empty directory, where none has: what was
    left half copied came from another moment.
    """
    spool.mkdir(parents=True, exist_ok=True)
    try:
        return msgspec.json.decode((spool / _DONE).read_bytes(), type=Found)
    except (FileNotFoundError, msgspec.DecodeError):
        for path in spool.iterdir():
            path.unlink()
        return None


def finish(spool: Path, found: Found) -> Found:
    """Make what was found the truth for this run and its resumes. Raises SinkError."""
    for path in spool.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_directory(spool)
    write_durably(spool / _DONE, msgspec.json.encode(found))
    return found


def copy(spool: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], prefix: str = "") -> list[InputFile]:
    """Write batches of this schema to files of about a million rows or 256 MiB; at least one file.

    `prefix` keeps apart the names of what is copied side by side. Raises SinkError as the disk does; what `batches`
    raises goes through.
    """
    names: list[str] = []
    part = None
    rows = nbytes = 0
    for batch in batches:
        try:
            if part is None:
                names.append(f"{prefix}{len(names):05d}.parquet")
                part = ParquetSink().open(spool / names[-1], schema, b"{}")
                rows = nbytes = 0
            part.write(batch)
            rows, nbytes = rows + batch.num_rows, nbytes + batch.nbytes
            if rows >= _FILE_ROWS or nbytes >= _FILE_BYTES:
                part.close()
                part = None
        except OSError as error:
            raise disk_refused("the copy of the input", error) from error
    try:
        if not names:
            names.append(f"{prefix}00000.parquet")
            part = ParquetSink().open(spool / names[0], schema, b"{}")
        if part is not None:
            part.close()
    except OSError as error:
        raise disk_refused("the copy of the input", error) from error
    return [InputFile(name=n) for n in names]
