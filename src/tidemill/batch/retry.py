"""The dead letters of a run as the input of another one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.batch.blobs import remote
from tidemill.batch.manifest import RunManifest, find_manifest
from tidemill.batch.options import ScoreOptions
from tidemill.batch.targets.published import published, unpublished
from tidemill.errors import RunError, SourceError

__all__ = ["UNREADABLE", "dead_letters_of"]

# The code of rows whose place is known and whose cells could not be read: their letters hold nulls.
UNREADABLE = "unreadable"


def dead_letters_of(run: str, options: ScoreOptions) -> tuple[str, ScoreOptions]:
    """Where the dead letters of a run lie, and the options to score them with, as columns of what that run read.

    `run` is its output (a file or a directory) or its manifest. Raises SourceError where there is no manifest, RunError
    for a run that its target does not hold, that has no letters, not all of them any more, or some that hold no row.
    """
    try:
        found = find_manifest(run)
        if found is None:
            raise SourceError(f"{run}: is not the output of a run, nor its manifest")
        where, data = found
        manifest = msgspec.json.decode(data, type=RunManifest)
    except (OSError, msgspec.DecodeError) as error:
        raise SourceError(f"{run}: is not the output of a run, nor its manifest: {error}") from None
    if manifest.state != "done":
        raise RunError(f"run {manifest.run_id} has published nothing, nor all its dead letters: score its input again")
    there = published(where, manifest)
    if there is None:
        raise unpublished(where, manifest)
    manifest = there
    if not manifest.dead or manifest.dead_letters is None:
        raise RunError(f"run {manifest.run_id} has no dead letters: there is nothing to score again")
    blank = manifest.errors.get(UNREADABLE, 0)
    if blank:
        raise RunError(
            f"run {manifest.run_id}: {blank} of its dead letters are rows that could not be read; mend the input and "
            "score it again"
        )
    rows = _rows(manifest.dead_letters)
    if rows is not None and rows != manifest.dead:
        raise RunError(
            f"run {manifest.run_id} had {manifest.dead} dead letters, and {manifest.dead_letters} holds {rows}; to "
            "score what it holds, give that file for INPUT without --retry-dead"
        )
    if "*" in options.pass_through:
        options = msgspec.structs.replace(options, pass_through=tuple(manifest.plan.read_schema.names))
    return manifest.dead_letters, options


def _rows(place: str) -> int | None:
    """How many letters lie on this machine; None where they cannot be counted, which is told when they are read."""
    if remote(place):
        return None
    path = Path(place)
    try:
        return sum(map(_counted, path.iterdir() if path.is_dir() else [path]))
    except (OSError, pa.ArrowException):
        return None


def _counted(path: Path) -> int:
    if path.suffix != ".jsonl":
        rows: int = pq.read_metadata(path).num_rows
        return rows
    with open(path, "rb") as file:
        return sum(1 for line in file if not line.isspace())
