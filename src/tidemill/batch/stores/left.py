"""What executions that never committed left in a store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tidemill.batch.places import sink_format
from tidemill.batch.stores.names import EXECUTION, MANIFEST, PROBE, decoded, manifest_beside, run_of
from tidemill.batch.stores.objects import Entry, Objects

__all__ = ["Abandoned", "abandoned_objects", "remove_objects"]


@dataclass(frozen=True, slots=True)
class Abandoned:
    """An object that no manifest names, and the run that put it there: "" for one by which a run tried the store."""

    uri: str
    entry: Entry
    run_id: str


def abandoned_objects(uri: str, older_than: timedelta, now: datetime) -> list[Abandoned]:
    """Old parts and dead letters below a prefix, or old manifests and dead letters beside an object, that the manifest
    there does not name. Nothing where that manifest cannot be understood.

    Raises RunError where the store cannot be asked, ConfigError, MissingExtra.
    """
    if sink_format(uri)[1]:
        objects, beside = Objects(uri), ""
    else:
        above, _, beside = uri.rpartition("/")
        objects = Objects(above)
    data = objects.get(manifest_beside(beside) if beside else MANIFEST)
    manifest = decoded(data)
    if data is not None and manifest is None:
        return []
    kept = {p.name for p in manifest.parts} if manifest is not None else set()
    letters = manifest.dead_letters if manifest is not None else None
    # The object itself knows whose it is, before its manifest has come to its place.
    living = (objects.attributes(beside) or {}).get(EXECUTION) if beside else None
    found = []
    for entry in objects.list():
        run_id = "" if entry.name.startswith(PROBE) else run_of(entry.name, beside)
        named = entry.name in kept or (living is not None and living in entry.name)
        named = named or (letters is not None and f"{objects.uri}/{entry.name}".startswith(letters))
        if run_id is not None and not named and now - entry.modified > older_than:
            found.append(Abandoned(objects.uri, entry, run_id))
    return found


def remove_objects(found: Iterable[Abandoned]) -> None:
    """Remove them. Raises RunError, ConfigError, MissingExtra."""
    by_place: dict[str, list[str]] = {}
    for one in found:
        by_place.setdefault(one.uri, []).append(one.entry.name)
    for uri, names in by_place.items():
        Objects(uri).delete(names)
