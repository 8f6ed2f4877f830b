"""The dead letters of a run as one file, where they do not lie inside its output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tidemill.batch.blobs import remote
from tidemill.batch.dead import dead_schema
from tidemill.batch.ledger import Sealed, disk_refused, part_file, sync_directory
from tidemill.batch.manifest import RunManifest, dead_place
from tidemill.batch.sinks import sink
from tidemill.batch.sinks.parquet import read_part
from tidemill.batch.stage import Stage
from tidemill.errors import RunError, SinkError

__all__ = ["join_dead", "write_dead"]


def join_dead(manifest: RunManifest, sealed: Sequence[Sealed], stage: Stage) -> None:
    """Put them in place, as a whole or not at all. Raises SinkError, RunError."""
    place = dead_place(manifest.plan)
    if remote(place):
        _send_dead(place, manifest, sealed, stage)
        return
    path = Path(place)
    aside = path.with_name(f".{path.name}.tidemill-{manifest.run_id}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dead(aside, path.suffix, manifest, sealed, stage)
        os.rename(aside, path)
        sync_directory(path.parent)
    except OSError as error:
        raise disk_refused(path, error) from error


def _send_dead(place: str, manifest: RunManifest, sealed: Sequence[Sealed], stage: Stage) -> None:
    from tidemill.batch.stores.objects import Objects

    parent, _, name = place.rpartition("/")
    aside = stage.work() / "letters"
    try:
        write_dead(aside, Path(name).suffix, manifest, sealed, stage)
    except OSError as error:
        raise disk_refused(aside, error) from error
    Objects(parent, SinkError).put(name, aside)


def write_dead(path: Path, suffix: str, manifest: RunManifest, sealed: Sequence[Sealed], stage: Stage) -> None:
    """Join them to one durable file, in the format of the suffix. Raises OSError as the disk does, RunError."""
    format_ = sink("jsonl" if suffix == ".jsonl" else "parquet")
    writer = format_.open(path, dead_schema(manifest.plan.read_schema), b"{}")
    try:
        for marker in sealed:
            if marker.dead is not None:
                for batch in read_part(stage.fetch("dead", marker.dead.name), 8192):
                    writer.write(batch)
    finally:
        writer.close()
    found = part_file(path, format_.count(path)).rows
    if found != manifest.dead:
        raise RunError(f"{path.name} holds {found} dead letters, {manifest.dead} were counted; nothing is published")
