"""A prefix of a store as a target: parts first, each under a name of this execution, then the manifest that names them
by one conditional write. Readers who go by the manifest see the old run or the new one.

The manifest's etag, taken before anything is written, is the fence: whoever was overtaken meanwhile finds another one,
and changes nothing. Since no two executions share a name, what a commit leaves behind may be removed once it stands;
what it replaced stays until the next one, for readers who have just read the old manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import msgspec
import pyarrow as pa

from tidemill.batch.ledger import PartFile, Sealed
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import DIRECTORY, Mode, Place, SinkPlace, sink_format
from tidemill.batch.plan import Plan
from tidemill.batch.sinks import sink
from tidemill.batch.stage import Kind, Stage
from tidemill.batch.stores.connect import split_uri
from tidemill.batch.stores.names import MANIFEST, dead_directory, decoded, execution, named_by, ours, part_name
from tidemill.batch.stores.objects import Entry, Objects
from tidemill.batch.stores.probe import check_conditions
from tidemill.batch.stores.single import ObjectTarget
from tidemill.batch.stores.stage import ObjectStage
from tidemill.batch.targets.base import Guarantee, Publication, Target, run_stage
from tidemill.errors import ConfigError, RunError, SinkError

__all__ = ["PrefixTarget", "object_target"]


def object_target(place: Place, mode: Mode, key: tuple[str, ...]) -> Target:
    """The target at s3://, gs:// or az://: one object where the name has the suffix of a format, else a prefix."""
    del key
    if mode not in ("create", "overwrite"):
        raise ConfigError(f"output {place.shown}: objects are created or overwritten as a whole, got mode {mode}")
    if place.options:
        raise ConfigError(f"output {place.shown}: knows no option {next(iter(place.options))!r}")
    format_, directory = sink_format(place.body)
    uri = f"{place.scheme}://{place.body}"
    split_uri(uri)
    return PrefixTarget(uri, mode) if directory else ObjectTarget(uri, mode, format_)


class PrefixTarget:
    """Parquet parts below a prefix."""

    guarantee: Guarantee = "atomic by manifest"

    def __init__(self, uri: str, mode: Mode) -> None:
        self._objects = Objects(uri, SinkError)
        self._mode: Mode = mode
        self._was: Entry | None = None
        self._old: RunManifest | None = None

    def describe(self, run_id: str) -> SinkPlace:
        del run_id
        uri = self._objects.uri
        return SinkPlace(
            uri=uri,
            mode=self._mode,
            format="parquet",
            passing=False,
            directory=True,
            dead=f"{uri}/{DIRECTORY}/dead",
            manifest=f"{uri}/{MANIFEST}",
        )

    def stage(self, run_id: str) -> str:
        return run_stage(run_id)

    def committed(self, run_id: str) -> RunManifest | None:
        found = decoded(self._objects.get(MANIFEST))
        return found if found is not None and found.run_id == run_id else None

    def allow(self) -> None:
        objects = self._objects
        self._was = objects.head(MANIFEST)
        foreign = next((e.name for e in objects.list() if not ours(e.name)), None)
        if self._was is not None and self._mode == "create":
            raise RunError(
                f"{objects.uri}: holds the output of another run; choose another output, or pass --overwrite"
            )
        self._old = None if self._was is None else decoded(objects.get(MANIFEST))
        if self._was is not None and self._old is None:
            raise RunError(f"{objects.uri}/{MANIFEST}: cannot be understood; it is left alone; remove it yourself")
        if self._was is None and foreign is not None:
            raise RunError(
                f"{objects.uri}: is not an output of Tidemill (it holds {foreign}, and no {MANIFEST}); it is left "
                "alone; choose an empty prefix"
            )
        check_conditions(objects, replacing=self._was is not None)

    def check(self, schema: pa.Schema) -> None:
        reason = sink("parquet").check(schema)
        if reason is not None:
            raise ConfigError(f"output {self._objects.uri}: {reason}")

    def publication(self, plan: Plan, stage: Stage, schema: pa.Schema) -> Publication:
        del schema
        return _Prefix(self._objects, plan, stage, self._was, self._old)


class _Prefix:
    """Sends parts up as they are sealed."""

    def __init__(self, objects: Objects, plan: Plan, stage: Stage, was: Entry | None, old: RunManifest | None) -> None:
        self._objects, self._plan, self._stage, self._was, self._old = objects, plan, stage, was, old
        self._execution = execution(plan.run_id)
        self._dead = dead_directory(self._execution)
        self._pool = ThreadPoolExecutor(2, "tidemill-upload")
        self._sent: dict[int, Future[PartFile]] = {}
        self._names: list[str] = []
        # Whether what was sent is, or after a commit without an answer may be, part of the output.
        self._needed = False

    def add(self, marker: Sealed) -> None:
        self._sent[marker.shard] = self._pool.submit(self._send, marker)

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        objects = self._objects
        parts = tuple(self._sent[m.shard].result() for m in sealed)
        inside = manifest.dead > 0 and self._plan.job.dead_letters is None
        letters = f"{objects.uri}/{self._dead}" if inside else manifest.dead_letters
        record = msgspec.structs.replace(manifest, parts=parts, dead_letters=letters)
        before = {e.name: e.size for e in objects.list()}
        lost = next((p.name for p in parts if before.get(p.name) != p.bytes), None)
        if lost is not None:
            raise SinkError(f"{objects.uri}/{lost}: is not there as it was written; resume the run")
        data = msgspec.json.encode(record)
        self._needed = True
        found = objects.create(MANIFEST, data) if self._was is None else objects.replace(self._was, data)
        if found != data:
            self._needed = False
            return self._overtaken(decoded(found))
        kept, replaced = {*self._names, MANIFEST}, named_by(self._old, objects.uri)
        with suppress(RunError):  # what stays is removed by the next commit, or by gc
            objects.delete(n for n in before if ours(n) and n not in kept and not replaced(n))
        return record

    def abandon(self) -> None:
        for future in self._sent.values():
            future.cancel()
        self._pool.shutdown(wait=True)
        if not self._needed:
            with suppress(RunError):
                self._objects.delete(self._names)

    def _send(self, marker: Sealed) -> PartFile:
        name = part_name(marker.shard, self._execution)
        self._copy("parts", marker.part, name)
        if marker.dead is not None and self._plan.job.dead_letters is None:
            self._copy("dead", marker.dead, f"{self._dead}/part-{marker.shard:05d}.parquet")
        return msgspec.structs.replace(marker.part, name=name)

    def _copy(self, kind: Kind, part: PartFile, name: str) -> None:
        self._names.append(name)
        if isinstance(self._stage, ObjectStage):
            self._stage.copy(kind, part, self._objects, name)
        else:
            self._objects.put(name, self._stage.fetch(kind, part.name))

    def _overtaken(self, found: RunManifest | None) -> RunManifest:
        """Somebody else was first: another driver of this run, whose commit is as good, or another run."""
        if found is not None and found.run_id == self._plan.run_id:
            return found
        who = f"run {found.run_id}" if found is not None else "somebody else"
        raise RunError(
            f"{self._objects.uri}: {who} published here while this run went on; nothing was changed; choose another "
            "output, or resume with --overwrite to replace that one"
        )
