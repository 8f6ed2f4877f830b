"""One object as a target: the parts joined here, then the whole put there at once, by condition. The object itself
says which run made it; manifest and dead letters lie beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec
import pyarrow as pa

from tidemill.batch.ledger import Sealed
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import Mode, SinkPlace, SourceFormat
from tidemill.batch.plan import Plan
from tidemill.batch.sinks import sink
from tidemill.batch.stage import Stage
from tidemill.batch.stores.names import EXECUTION, RUN, dead_beside, decoded, execution, manifest_aside, manifest_beside
from tidemill.batch.stores.objects import Entry, Objects
from tidemill.batch.stores.probe import check_conditions
from tidemill.batch.stores.uploads import put_once
from tidemill.batch.targets.assembly import Assembly
from tidemill.batch.targets.base import Guarantee, Publication, run_stage
from tidemill.batch.targets.letters import write_dead
from tidemill.errors import ConfigError, RunError, SinkError

__all__ = ["ObjectTarget"]


class ObjectTarget:
    """A Parquet, CSV or JSON lines object."""

    guarantee: Guarantee = "atomic"

    def __init__(self, uri: str, mode: Mode, format_: SourceFormat) -> None:
        above, _, self._name = uri.rpartition("/")
        self._objects = Objects(above, SinkError)
        self._uri = f"{self._objects.uri}/{self._name}"
        self._mode: Mode = mode
        self._format = format_
        self._was: Entry | None = None

    def describe(self, run_id: str) -> SinkPlace:
        return SinkPlace(
            uri=self._uri,
            mode=self._mode,
            format=self._format,
            directory=True,  # dead letters go with the object
            dead=f"{self._uri}.{run_id}.dead.parquet",
            manifest=f"{self._uri}.manifest.json",
        )

    def stage(self, run_id: str) -> str:
        return run_stage(run_id)

    def committed(self, run_id: str) -> RunManifest | None:
        return _committed(self._objects, self._name, run_id)

    def allow(self) -> None:
        self._was = self._objects.head(self._name)
        if self._was is not None and self._mode == "create":
            raise RunError(f"{self._uri}: exists; choose another output, or pass --overwrite")
        check_conditions(self._objects, replacing=self._was is not None)

    def check(self, schema: pa.Schema) -> None:
        reason = sink(self._format).check(schema)
        if reason is not None:
            raise ConfigError(f"output {self._uri}: {reason}")

    def publication(self, plan: Plan, stage: Stage, schema: pa.Schema) -> Publication:
        return _Object(self._objects, self._name, self._was, plan, stage, schema)


class _Object:
    """Joins the parts while others are still scored."""

    def __init__(
        self, objects: Objects, name: str, was: Entry | None, plan: Plan, stage: Stage, schema: pa.Schema
    ) -> None:
        self._objects, self._name, self._was, self._plan, self._stage = objects, name, was, plan, stage
        self._execution = execution(plan.run_id)
        self._joined = Assembly(plan, stage, schema)

    def add(self, marker: Sealed) -> None:
        self._joined.add(marker)

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        objects, name = self._objects, self._name
        record = msgspec.structs.replace(manifest, parts=(self._joined.finish(),))
        beside = [manifest_aside(name, self._execution)]
        if manifest.dead and self._plan.job.dead_letters is None:
            beside.append(dead_beside(name, self._execution))
            letters = self._stage.work() / "letters.parquet"
            write_dead(letters, ".parquet", manifest, sealed, self._stage)
            objects.put(beside[-1], letters)
            record = msgspec.structs.replace(record, dead_letters=f"{objects.uri}/{beside[-1]}")
        data = msgspec.json.encode(record)
        objects.put(beside[0], data)
        old = decoded(objects.get(manifest_beside(name))) if self._was is not None else None
        said = {RUN: self._plan.run_id, EXECUTION: self._execution}
        if not put_once(objects, name, self._joined.path, said, self._was):
            with suppress(RunError):
                objects.delete(beside)
            return self._overtaken()
        with suppress(RunError):  # else the next look at the target does it
            _place_manifest(objects, name, self._execution, data)
            _remove_letters(objects, name, old)
        return record

    def abandon(self) -> None:
        self._joined.abandon()

    def _overtaken(self) -> RunManifest:
        """Somebody else was first: another driver of this run, whose commit is as good, or another run."""
        found = _committed(self._objects, self._name, self._plan.run_id)
        if found is None:
            raise RunError(
                f"{self._objects.uri}/{self._name}: was written by somebody else while this run went on; nothing was "
                "changed; choose another output, or resume with --overwrite to replace it"
            )
        return found


def _committed(objects: Objects, name: str, run_id: str) -> RunManifest | None:
    """The manifest of the object that is there, if this run made it. Raises SinkError, RunError."""
    said = objects.attributes(name)
    if said is None or said.get(RUN) != run_id:
        return None
    execution = said.get(EXECUTION, "")
    # A crash between the commit and the manifest's own place leaves it where it was put before.
    data = objects.get(manifest_aside(name, execution))
    if data is not None:
        _place_manifest(objects, name, execution, data)
    else:
        data = objects.get(manifest_beside(name))
    found = decoded(data)
    if found is None or found.run_id != run_id:
        raise RunError(
            f"{objects.uri}/{name}: was published by run {run_id}, but its manifest is gone or damaged; "
            "choose another output, or begin a new run with --overwrite"
        )
    return found


def _place_manifest(objects: Objects, name: str, execution: str, data: bytes) -> None:
    """Put the manifest beside its object, as long as that is still the one it describes. Raises RunError."""
    place = manifest_beside(name)
    while True:
        # In this order: whoever replaces the object after it was looked at has placed, or will place, another.
        there = objects.head(place)
        said = objects.attributes(name)
        if said is None or said.get(EXECUTION) != execution:
            break
        found = objects.create(place, data) if there is None else objects.replace(there, data)
        if found == data:
            break
    objects.delete([manifest_aside(name, execution)])


def _remove_letters(objects: Objects, name: str, old: RunManifest | None) -> None:
    """Take away the dead letters of the object that was replaced. Raises RunError."""
    if old is not None and old.dead_letters is not None:
        above, _, letters = old.dead_letters.rpartition("/")
        if above == objects.uri and letters.startswith(f"{name}."):
            objects.delete([letters])
