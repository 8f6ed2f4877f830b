"""Whether a run whose manifest lies somewhere was published: its target decides, and not the manifest."""

from __future__ import annotations

from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import DIRECTORY, STORES, parse_place
from tidemill.batch.targets import open_target
from tidemill.errors import RunError

__all__ = ["published", "unpublished"]

_BESIDE = ".manifest.json"


def published(where: str, manifest: RunManifest) -> RunManifest | None:
    """The manifest of a run as its target has it, given the one that lies at `where`; None where the target does not
    hold the run. Raises SinkError, ConfigError or MissingExtra where the target cannot be asked.
    """
    if where.endswith(f"/{DIRECTORY}/manifest.json"):
        return manifest  # came with the output that it lies in
    sink = manifest.plan.job.sink
    return open_target(parse_place(_output(where, manifest)), sink.mode, sink.key).committed(manifest.run_id)


def unpublished(where: str, manifest: RunManifest) -> RunError:
    """What to say of a run whose manifest is there, and that its target does not hold."""
    return RunError(
        f"{where}: {_output(where, manifest)} does not hold run {manifest.run_id}: the run was cut off before its "
        "commit, or its output was replaced since; resume it with its run id"
    )


def _output(where: str, manifest: RunManifest) -> str:
    uri = manifest.plan.job.sink.uri
    if parse_place(uri).scheme in ("", *STORES) and where.endswith(_BESIDE):
        return where.removesuffix(_BESIDE)  # both may have been moved since
    return uri
