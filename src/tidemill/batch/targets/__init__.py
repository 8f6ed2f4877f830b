"""Targets: where output becomes visible. A new one is a file here and a line in `TARGETS`."""

from __future__ import annotations

from importlib import import_module

from tidemill.batch.places import STORES, Mode, Place
from tidemill.batch.targets.base import GUARANTEES, Guarantee, Publication, Target
from tidemill.errors import ConfigError, listing

__all__ = ["GUARANTEES", "TARGETS", "Guarantee", "Publication", "Target", "open_target"]

# The class of each scheme, made of a place, a mode and the columns of the key.
TARGETS: dict[str, str] = {
    "": "tidemill.batch.targets.files:FileTarget",
    "parquet": "tidemill.batch.targets.spread:SpreadTarget",
    "delta": "tidemill.batch.lake.delta_target:DeltaTarget",
    **dict.fromkeys(("postgresql", "postgres"), "tidemill.batch.databases.postgres_target:PostgresTarget"),
    "adbc": "tidemill.batch.databases.adbc:AdbcTarget",
    "sqlite": "tidemill.batch.databases.sqlite:SqliteTarget",
    "duckdb": "tidemill.batch.databases.duckdb:DuckdbTarget",
    **dict.fromkeys(STORES, "tidemill.batch.stores.target:object_target"),
}


def open_target(place: Place, mode: Mode, key: tuple[str, ...]) -> Target:
    """The target at a place. Raises ConfigError where nothing writes there, or not in this mode."""
    named = TARGETS.get(place.scheme.partition("+")[0])
    if named is None:
        raise ConfigError(
            f"output {place.shown}: nothing writes {place.scheme}:; expected a path, or one of "
            f"{listing([s for s in TARGETS if s])}"
        )
    if (mode == "upsert") != bool(key):
        raise ConfigError(
            f"output {place.shown}: mode upsert needs key columns (--key), and only it has any; "
            f"got mode {mode} and key {listing(key) if key else 'none'}"
        )
    if len(set(key)) < len(key):
        raise ConfigError(f"output {place.shown}: key names a column twice; got {listing(key)}")
    module, name = named.split(":")
    target: Target = getattr(import_module(module), name)(place, mode, key)
    return target
