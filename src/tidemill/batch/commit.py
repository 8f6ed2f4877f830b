"""The one commit of a run: everything is put in place inside the stage, then a single rename publishes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from tidemill.batch.assembly import Assembly
from tidemill.batch.dead import dead_schema
from tidemill.batch.ledger import Sealed, part_file, sync_directory, write_durably
from tidemill.batch.manifest import DIRECTORY, RunManifest, dead_path, manifest_path
from tidemill.batch.sinks import sink
from tidemill.errors import RunError, SinkError
from tidemill.renames import exchange, rename_new

__all__ = ["commit"]


def commit(
    manifest: RunManifest, sealed: Sequence[Sealed], stage: Path, joined: Assembly | None, *, overwrite: bool
) -> None:
    """Publish a complete run: its parts as a directory, or the one file they were joined to. Safe to repeat after a
    crash at any point, until the target tells it is committed.

    Raises SinkError where the disk refuses, RunError where something else has taken the output's name; then
    nothing is published and the stage stays.
    """
    try:
        if joined is None:
            _commit_directory(manifest, sealed, stage, overwrite)
        else:
            _commit_file(manifest, sealed, stage, joined, overwrite)
    except FileExistsError as error:
        raise RunError(
            f"{error.filename}: appeared while the run was going; move it away, or pass --overwrite, and resume"
        ) from None
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise SinkError(
            f"{manifest.plan.job.sink.path}: cannot be written: {reason}; make room and resume the run"
        ) from error


def _commit_directory(manifest: RunManifest, sealed: Sequence[Sealed], stage: Path, overwrite: bool) -> None:
    target, parts = Path(manifest.plan.job.sink.path), stage / "parts"
    old = stage / "replaced"
    if old.exists() and not target.exists():
        # The fallback below was cut off between its two renames.
        os.rename(parts, target)
        sync_directory(target.parent)
        return
    inside = parts / DIRECTORY
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    _keep_only(parts, {m.part.name for m in sealed})
    if manifest.dead:
        if manifest.plan.job.dead_letters is None:
            _link_dead(sealed, stage, inside / "dead")
        else:
            _join_dead(manifest, sealed, stage)
    write_durably(inside / "manifest.json", msgspec.json.encode(manifest))
    sync_directory(inside)
    sync_directory(parts)
    if overwrite and target.exists():
        if not exchange(parts, target):
            # No exchange on this file system: for an instant readers find neither the old nor the new.
            os.rename(target, old)
            os.rename(parts, target)
    else:
        rename_new(parts, target)
    sync_directory(target.parent)


def _commit_file(
    manifest: RunManifest, sealed: Sequence[Sealed], stage: Path, joined: Assembly, overwrite: bool
) -> None:
    plan = manifest.plan
    target = Path(plan.job.sink.path)
    whole = joined.finish()
    if manifest.dead:
        _join_dead(manifest, sealed, stage)
    record = msgspec.structs.replace(manifest, parts=(whole,))
    write_durably(manifest_path(plan.job.sink), msgspec.json.encode(record))
    if overwrite:
        os.rename(joined.path, target)
    else:
        rename_new(joined.path, target)
    sync_directory(target.parent)
    if not manifest.dead and plan.job.dead_letters is None:
        # Those of an output that was here before are not this one's.
        dead_path(plan).unlink(missing_ok=True)


def _keep_only(directory: Path, names: set[str]) -> None:
    for path in directory.iterdir():
        if path.name not in names and path.name != DIRECTORY:
            path.unlink()


def _link_dead(sealed: Sequence[Sealed], stage: Path, place: Path) -> None:
    """Hard links: until the run is published, the ledger keeps its own names for them."""
    place.mkdir()
    for marker in sealed:
        if marker.dead is not None:
            _link(stage / "dead" / marker.dead.name, place / marker.dead.name)
    sync_directory(place)


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, place)
        with open(place, "rb") as file:
            os.fsync(file.fileno())


def _join_dead(manifest: RunManifest, sealed: Sequence[Sealed], stage: Path) -> None:
    """All dead letters as one file, in place as a whole or not at all."""
    path = dead_path(manifest.plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tidemill-{manifest.run_id}")
    format_ = sink("jsonl" if path.suffix == ".jsonl" else "parquet")
    writer = format_.open(aside, dead_schema(manifest.plan.read_schema), b"{}")
    try:
        for marker in sealed:
            if marker.dead is not None:
                with pq.ParquetFile(stage / "dead" / marker.dead.name, pre_buffer=False) as file:
                    for batch in file.iter_batches(8192, use_threads=False):
                        writer.write(batch)
    finally:
        writer.close()
    found = part_file(aside, format_.count(aside)).rows
    if found != manifest.dead:
        raise RunError(f"{path.name} holds {found} dead letters, {manifest.dead} were counted; nothing is published")
    os.rename(aside, path)
    sync_directory(path.parent)
