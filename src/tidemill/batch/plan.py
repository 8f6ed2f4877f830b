"""The plan of a run: its input as it was seen, its job, its package, and the shards that will be scored.

A plan is plain data, written to the ledger as JSON; whoever holds it and the package can score any of its shards.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa

from tidemill.batch.blobs import blob
from tidemill.batch.columns import (
    common_schema,
    copied_columns,
    model_columns,
    partition_schema,
    wanted_types,
    with_partitions,
)
from tidemill.batch.dead import DEAD_COLUMNS, dead_schema
from tidemill.batch.inputs import Found, Origin
from tidemill.batch.options import Positive, ScoreOptions
from tidemill.batch.places import InputFile, SinkPlace, SourceFormat
from tidemill.batch.sinks import sink
from tidemill.batch.snapshot import Snapshot
from tidemill.batch.sources import Examined, Piece, source
from tidemill.batch.sources.listing import PATH
from tidemill.config import Config
from tidemill.errors import ConfigError, SourceError, listing
from tidemill.model.signature import Input, Output
from tidemill.prediction.columns import output_schema
from tidemill.prediction.live import Live

__all__ = [
    "PackageId",
    "Plan",
    "PlannedFile",
    "PlannedJob",
    "Shard",
    "build_plan",
    "differences",
    "job_differences",
    "package_id",
    "planned_job",
]

# A shard is the unit of retry and commit: small enough to lose, large enough that sealing it costs nothing.
SHARD_ROWS = 500_000
SHARD_BYTES = 128 << 20


class PlannedFile(Config, frozen=True, kw_only=True):
    """One input file. `rows` is None where only reading tells them; `partition` are the `key=value` directories above
    it, without those that the file has a column of its own for.
    """

    name: str
    partition: dict[str, str | None] = msgspec.field(default_factory=dict)
    rows: int | None
    snapshot: Snapshot


class Shard(Config, frozen=True, kw_only=True):
    """A range of the input, in its order; `index` is its place in the output."""

    index: int
    pieces: tuple[Piece, ...]


class PlannedJob(Config, frozen=True, kw_only=True):
    """What was asked for, as far as it can change the output or whether there is one."""

    source: str
    sink: SinkPlace
    chunk_rows: int
    call_rows: int | None = None
    select: tuple[str, ...] = ()
    pass_through: tuple[str, ...] = ()
    max_error_rate: float | None = None
    max_errors: int | None = None
    dead_letters: str | None = None


class PackageId(Config, frozen=True, kw_only=True):
    """Which model answered."""

    name: str
    version: str
    fingerprint: str


class Plan(Config, frozen=True, kw_only=True):
    """All that scoring a shard needs beside the package.

    `read` is the Arrow schema (IPC) of the columns that are read, `copied` those of them that go to the output.
    `chunk_rows` and `call_rows` are settled when the run begins.
    """

    format: Literal[1]
    run_id: str
    created_at: str
    job: PlannedJob
    package: PackageId
    versions: dict[str, str]
    origin: Origin
    root: str
    source_format: SourceFormat
    files: tuple[PlannedFile, ...]
    read: bytes
    copied: tuple[str, ...]
    shards: tuple[Shard, ...]
    chunk_rows: Positive | None = None
    call_rows: Positive | None = None

    @property
    def read_schema(self) -> pa.Schema:
        """The columns that are read from each file or its partition, and their types."""
        return pa.ipc.read_schema(pa.py_buffer(self.read))

    @property
    def total_rows(self) -> int | None:
        """Rows of the whole input, or None where only reading tells."""
        rows = [f.rows for f in self.files]
        return sum(r for r in rows if r is not None) if None not in rows else None

    @property
    def stamp(self) -> bytes:
        """What an output file says of itself, where its format can: the run and the package, as JSON."""
        return msgspec.json.encode({"run_id": self.run_id, "package": self.package})

    def outputs(self, live: Live) -> list[Output]:
        """The model outputs that are written, in the package's order."""
        declared = live.package.manifest.outputs
        return [o for o in declared if not self.job.select or o.name in self.job.select]

    def output_schema(self, live: Live) -> pa.Schema:
        """The columns of the output: copied ones first, then the model's."""
        read = self.read_schema
        return pa.schema([*(read.field(n) for n in self.copied), *output_schema(self.outputs(live))])


def planned_job(source_uri: str, sink: SinkPlace, options: ScoreOptions) -> PlannedJob:
    """The job that these options ask for."""
    return PlannedJob(
        source=source_uri,
        sink=sink,
        chunk_rows=options.chunk_rows,
        call_rows=options.call_rows,
        select=options.select,
        pass_through=options.pass_through,
        max_error_rate=options.max_error_rate,
        max_errors=options.max_errors,
        dead_letters=options.dead_letters,
    )


def package_id(live: Live) -> PackageId:
    """Which model this is."""
    manifest = live.package.manifest
    return PackageId(name=manifest.name, version=manifest.version, fingerprint=live.fingerprint)


def build_plan(run_id: str, job: PlannedJob, live: Live, found: Found) -> Plan:
    """Look at every file and lay out the run, without reading rows.

    Raises SourceError for files that cannot be understood or that lack a column, ConfigError for options that do
    not fit the package or the input.
    """
    manifest = live.package.manifest
    files = found.files
    snapshots, examined = _examine(found, manifest.inputs)
    partitions = partition_schema(found, manifest.inputs)
    schemas = [with_partitions(e.schema, f, partitions) for e, f in zip(examined, files, strict=True)]
    present = schemas[0].names
    # Every column is one of any file: what the first lacks is not left out in silence.
    everywhere = dict.fromkeys(n for s in schemas for n in s.names) if "*" in job.pass_through else present
    copied = copied_columns(job.pass_through, list(everywhere))
    wanted = model_columns(manifest.inputs, present)
    wanted += [n for n in copied if n not in wanted]
    if found.format == "listing" and PATH not in wanted:
        wanted.append(PATH)  # a dead letter without it could not be told from others
    read = common_schema(schemas, wanted, manifest.inputs, files, found.format)
    _check_names(job, manifest.outputs, read, copied)
    return Plan(
        format=1,
        run_id=run_id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job=job,
        package=package_id(live),
        versions={
            "tidemill": importlib.metadata.version("tidemill"),
            "python": platform.python_version(),
            "pyarrow": pa.__version__,
            "numpy": np.__version__,
            "runtime": live.runtime.version,
        },
        origin=found.origin,
        root=found.root,
        source_format=found.format,
        files=tuple(
            PlannedFile(
                name=f.name,
                partition={k: v for k, v in f.partition.items() if k not in e.schema.names},
                rows=_rows(e),
                snapshot=s,
            )
            for f, e, s in zip(files, examined, snapshots, strict=True)
        ),
        read=read.serialize().to_pybytes(),
        copied=tuple(copied),
        shards=tuple(_shards(examined)),
    )


def job_differences(old: Plan, job: PlannedJob, package: PackageId) -> list[str]:
    """What makes this another run than `old`, whatever its input holds, each in a few words."""
    found = []
    for name in ("fingerprint", "name", "version"):
        a, b = getattr(old.package, name), getattr(package, name)
        if a != b:
            found.append(f"package {name} was {a[:16]}, is {b[:16]}")
    # Where a run keeps what is not its output was settled when it began, wherever it goes on. One that finds its target
    # taken may go on with leave to replace it.
    sink = msgspec.structs.replace(job.sink, dead=old.job.sink.dead, manifest=old.job.sink.manifest)
    allowed = {"create", "overwrite"}
    if {old.job.sink.mode, sink.mode} <= allowed:
        sink = msgspec.structs.replace(sink, mode=old.job.sink.mode)
    job = msgspec.structs.replace(job, sink=sink)
    found += [
        f"{name} was {_shown(getattr(old.job, name))}, is {_shown(getattr(job, name))}"
        for name in PlannedJob.__struct_fields__
        if getattr(old.job, name) != getattr(job, name)
    ]
    return found


def differences(old: Plan, new: Plan) -> list[str]:
    """What makes `new` another run than `old`, each in a few words; empty where one can go on with the other."""
    found = job_differences(old, new.job, new.package)
    if old.run_id != new.run_id:
        found.insert(0, f"its stage is that of run {old.run_id}")
    if old.origin != new.origin:
        found.append(f"the input was {_told(old.origin)}, is {_told(new.origin)}")
    before, after = {f.name: f for f in old.files}, {f.name: f for f in new.files}
    found += [f"input file {n} is gone" for n in sorted(before.keys() - after.keys())]
    found += [f"input file {n} is new" for n in sorted(after.keys() - before.keys())]
    found += [f"input file {n} was changed" for n in sorted(before.keys() & after.keys()) if before[n] != after[n]]
    if not found and (old.read, old.copied, old.shards) != (new.read, new.copied, new.shards):
        found.append(f"Tidemill or PyArrow read the input otherwise ({old.versions} then, {new.versions} now)")
    return found


def _told(origin: Origin) -> str:
    return ", ".join([origin.uri, *(f"{k} {v}" for k, v in origin.read.items())])


def _shown(value: object) -> str:
    if value is None or value == ():
        return "not given"
    if isinstance(value, SinkPlace):
        return " ".join([value.uri, f"({value.mode})", *value.key])
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _examine(found: Found, inputs: Sequence[Input]) -> tuple[list[Snapshot], list[Examined]]:
    types = wanted_types(inputs)
    reader = source(found.format)

    def look(named: InputFile) -> tuple[Snapshot, Examined]:
        file = blob(found.root, named.name)
        before = file.snapshot()
        examined = reader.examine(file, types)
        if file.snapshot() != before:
            raise SourceError(f"{file.name}: is being written to; score it when it is finished")
        return before, examined

    with ThreadPoolExecutor(8) as pool:
        looked = list(pool.map(look, found.files))
    return [s for s, _ in looked], [e for _, e in looked]


def _check_names(job: PlannedJob, outputs: Sequence[Output], read: pa.Schema, copied: Sequence[str]) -> None:
    names = [o.name for o in outputs]
    unknown = [n for n in job.select if n not in names]
    if unknown:
        raise ConfigError(f"select: the model has no output {unknown[0]!r}; it has {listing(names)}")
    written = job.select or names
    both = [n for n in copied if n in written]
    if both:
        raise ConfigError(
            f"column {both[0]!r} is both passed through and a model output; leave it out of the pass-through, "
            "or write other outputs with select"
        )
    reserved = [n for n in read.names if n in DEAD_COLUMNS]
    if reserved:
        raise ConfigError(f"column {reserved[0]!r} has a name that dead letters need; rename it")
    unheld = sink("parquet").check(dead_schema(read))
    if unheld is not None:  # found at the first bad row, it would end a run of hours
        raise ConfigError(f"{unheld}: dead letters are Parquet")


def _rows(examined: Examined) -> int | None:
    rows = [u.rows for u in examined.units]
    return sum(r for r in rows if r is not None) if None not in rows else None


def _shards(examined: Sequence[Examined]) -> Iterator[Shard]:
    """Units in order, gathered until a shard is large enough."""
    index = rows = nbytes = 0
    pieces: list[Piece] = []
    for file, one in enumerate(examined):
        for unit in one.units:
            last = pieces[-1] if pieces else None
            if last is not None and last.file == file and last.rows is not None and unit.rows is not None:
                pieces[-1] = msgspec.structs.replace(last, stop=unit.stop, rows=last.rows + unit.rows)
            else:
                pieces.append(
                    Piece(file=file, start=unit.start, stop=unit.stop, first_row=unit.first_row, rows=unit.rows)
                )
            rows += unit.rows or 0
            nbytes += unit.nbytes
            if rows >= SHARD_ROWS or nbytes >= SHARD_BYTES:
                yield Shard(index=index, pieces=tuple(pieces))
                index, rows, nbytes, pieces = index + 1, 0, 0, []
    if pieces:
        yield Shard(index=index, pieces=tuple(pieces))
