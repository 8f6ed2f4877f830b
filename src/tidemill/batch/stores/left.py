"""What runs left in a store: executions that never committed, and outputs that were replaced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tidemill.batch.places import sink_format
from tidemill.batch.stores.names import EXECUTION, MANIFEST, PROBE, decoded, manifest_beside, named_by, run_of
from tidemill.batch.stores.objects import Entry, Objects

__all__ = ["Abandoned", "abandoned_objects", "remove_objects"]


@dataclass(frozen=True, slots=True)
class Abandoned:
    """An object that no manifest names, and the run that put it there: "" for one by which a run tried the store."""

    uri: str
    entry: Entry
    run_id: str


def abandoned_objects(uri: str, older_than: timedelta, now: datetime) -> list[Abandoned]:
    """Parts and dead letters below a prefix, or manifests and dead letters beside an object, that the manifest there
    has not named for so long. Nothing where that manifest cannot be understood.

    Raises RunError where the store cannot be asked, ConfigError, MissingExtra.
    """
    if sink_format(uri)[1]:
        objects, beside = Objects(uri), ""
    else:
        above, _, beside = uri.rpartition("/")
        objects = Objects(above)
    place = manifest_beside(beside) if beside else MANIFEST
    data = objects.get(place)
    manifest = decoded(data)
    if data is not None and manifest is None:
        return []
    kept = named_by(manifest, objects.uri)
    # The object itself knows whose it is, before its manifest has come to its place.
    living = (objects.attributes(beside) or {}).get(EXECUTION) if beside else None
    entries = list(objects.list())
    # What a manifest replaced was part of the output until then.
    since = max((e.modified for e in entries if e.name == place), default=None)
    found = []
    for entry in entries:
        run_id = "" if entry.name.startswith(PROBE) else run_of(entry.name, beside)
        named = kept(entry.name) or (living is not None and living in entry.name)
        unused = entry.modified if since is None else max(entry.modified, since)
        if run_id is not None and not named and now - unused > older_than:
            found.append(Abandoned(objects.uri, entry, run_id))
    return found


def remove_objects(found: Iterable[Abandoned]) -> None:
    """Remove them. Raises RunError, ConfigError, MissingExtra."""
    by_place: dict[str, list[str]] = {}
    for one in found:
        by_place.setdefault(one.uri, []).append(one.entry.name)
    for uri, names in by_place.items():
        Objects(uri).delete(names)
