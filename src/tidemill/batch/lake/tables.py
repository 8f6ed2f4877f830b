"""Delta tables through deltalake: how they are opened, and its errors in ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from tidemill.batch.blobs import remote
from tidemill.batch.places import Mode, Place
from tidemill.errors import ConfigError, MissingExtra, RunError

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["delta_errors", "location", "open_delta", "overtaken", "storage_options", "unwritable"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Features that ask nothing of whoever adds whole files.
_HARMLESS = {
    *("appendOnly", "invariants", "checkConstraints", "generatedColumns", "identityColumns", "changeDataFeed"),
    *("columnMapping", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"),
}
# Marks of columns whose values a writer has to check or to make.
_MARKS = ("delta.invariants", "delta.generationExpression", "delta.identity.start", "CURRENT_DEFAULT")


def location(place: Place) -> str:
    """Where a table lies: an absolute path of this machine, or the URI of a store. Raises ConfigError for nothing."""
    if not place.body.strip("/"):
        raise ConfigError(
            f"{place.shown}: names no table; expected {place.scheme}:PATH or {place.scheme}:s3://BUCKET/PATH"
        )
    body = place.body.removeprefix("file://")
    return body.rstrip("/") if remote(body) else os.path.abspath(body)


def open_delta(uri: str, shown: str, error: type[RunError], version: int | None = None) -> DeltaTable | None:
    """The table at a version, or at its newest; None where there is none. Raises `error`, MissingExtra."""
    with delta_errors(shown, error):
        from deltalake import DeltaTable

        if not DeltaTable.is_deltatable(uri, storage_options(uri)):
            return None
        return DeltaTable(uri, version=version, storage_options=storage_options(uri))


def storage_options(uri: str) -> dict[str, str] | None:
    """What deltalake is told of a store beside the environment, which it reads for itself: plain HTTP is for
    endpoints on this machine, or where AWS_ALLOW_HTTP says so.
    """
    if not uri.startswith("s3://"):
        return None
    from tidemill.batch.stores.connect import endpoint, plain_http

    url = endpoint()
    if url is None:
        return None
    return {"AWS_ENDPOINT_URL": url} | ({"AWS_ALLOW_HTTP": "true"} if plain_http(url) else {})


def _line(error: Exception) -> str:
    """What the library draws as a coloured tree, as one line."""
    lines = [line.strip(" ↳") for line in _COLOUR.sub("", str(error)).splitlines()]
    text = ": ".join(line.rstrip(".") for line in lines if line and not line.startswith("Help:"))
    return (text if len(text) <= 300 else text[:297] + "...") or type(error).__name__


@contextmanager
def delta_errors(shown: str, error: type[RunError]) -> Iterator[None]:
    """What deltalake raises, as one line of this kind."""
    try:
        from deltalake.exceptions import DeltaError, TableNotFoundError
    except ModuleNotFoundError:
        raise MissingExtra("delta:", "lake") from None
    try:
        yield
    except TableNotFoundError:
        raise error(f"{shown}: there is no Delta table") from None
    except (DeltaError, OSError, pa.ArrowException) as found:
        raise error(f"{shown}: {_line(found)}") from found


def overtaken(error: Exception) -> bool:
    """Whether a commit failed because another one came first."""
    from deltalake.exceptions import CommitFailedError

    return isinstance(error.__cause__, CommitFailedError)


def unwritable(table: DeltaTable, mode: Mode) -> str | None:
    """Why whole data files may not be added to a table, in a few words, or None: only a writer of rows could keep its
    rules.
    """
    configuration = table.metadata().configuration
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        return "its columns are mapped to other names"
    constraint = next((k for k in configuration if k.startswith("delta.constraints.")), None)
    if constraint is not None:
        return f"it has the constraint {constraint.removeprefix('delta.constraints.')}"
    schema = table.schema().to_json()
    mark = next((m for m in _MARKS if f'"{m}"' in schema), None)
    if mark is not None:
        return f"a column of it has {mark}"
    # Files with a deletion vector stand beside what is appended; to take them away, the vector would have to be named.
    harmless = _HARMLESS | ({"deletionVectors"} if mode == "append" else set())
    others = sorted(set(table.protocol().writer_features or ()) - harmless)
    return f"it uses {others[0]}" if others else None
