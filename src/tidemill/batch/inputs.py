"""Inputs: what a source comes to. Files that can be read in place, or a copy of what cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import msgspec

from tidemill.batch.places import STORES, InputFile, Place, SourceFormat, find_files
from tidemill.config import Config
from tidemill.errors import ConfigError, listing

__all__ = ["FINDERS", "Asked", "Found", "Origin", "find_input"]

# The function of each scheme that finds its input: called with the place and what is asked.
FINDERS: dict[str, str] = {
    **dict.fromkeys(("postgresql", "postgres"), "tidemill.batch.databases.postgres_source:find_postgres"),
    "adbc": "tidemill.batch.databases.adbc:find_adbc",
    "sqlite": "tidemill.batch.databases.sqlite:find_sqlite",
    "duckdb": "tidemill.batch.databases.duckdb:find_duckdb",
    **dict.fromkeys(STORES, "tidemill.batch.stores.inputs:find_objects"),
    "files": "tidemill.batch.lake.folders:find",
    "delta": "tidemill.batch.lake.delta:find",
    "iceberg": "tidemill.batch.lake.iceberg:find",
}


class Origin(Config, frozen=True, kw_only=True):
    """Where an input came from. `read` tells what exactly was read: version, snapshot id, LSN or time of the query."""

    kind: str
    uri: str
    read: dict[str, str] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """The files of an input, in order: below a directory of this machine, or a store's prefix.

    `partition_types` are the Arrow types (aliases) of partition keys, where somebody knows them.
    """

    root: str
    format: SourceFormat
    files: list[InputFile]
    origin: Origin
    partition_types: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a finder is told.

    `spool` is the directory to copy what cannot be read in place; without one the finder answers None instead.
    `pinned` is the origin of the run that is resumed: the same version is to be read again. `wanted` picks, of the
    columns that are there, those that the model and the pass-through need; it raises for one that is missing.
    """

    spool: Path | None
    pinned: Origin | None
    wanted: Callable[[Sequence[str]], list[str]]


def find_input(place: Place, asked: Asked) -> Found | None:
    """The files of a source. None where finding them would mean copying them, and no spool was given.

    Raises SourceError for what is not there or cannot be understood, ConfigError for a scheme nobody reads.
    """
    if not place.scheme:
        root, format_, files = find_files(place.body)
        return Found(str(root), format_, files, Origin(kind="files", uri=place.shown))
    finder = FINDERS.get(place.scheme.partition("+")[0])
    if finder is None:
        raise ConfigError(
            f"source {place.shown}: nothing reads {place.scheme}:; expected a path, or one of {listing(FINDERS)}"
        )
    module, name = finder.split(":")
    find: Callable[[Place, Asked], Found | None] = getattr(import_module(module), name)
    return find(place, asked)
