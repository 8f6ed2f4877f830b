"""The dead letters of a run as the input of another one."""

from __future__ import annotations

import msgspec

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
    for a run that its target does not hold, that has no letters, or some that hold no row.
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
    if not manifest.dead:
        raise RunError(f"run {manifest.run_id} has no dead letters: there is nothing to score again")
    blank = manifest.errors.get(UNREADABLE, 0)
    if blank:
        raise RunError(
            f"run {manifest.run_id}: {blank} of its dead letters are rows that could not be read; mend the input and "
            "score it again"
        )
    if "*" in options.pass_through:
        options = msgspec.structs.replace(options, pass_through=tuple(manifest.plan.read_schema.names))
    assert manifest.dead_letters is not None  # noqa: S101 - it has some
    return manifest.dead_letters, options
