"""A run's record made anew from what the run left: its manifest, or its stage."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.jobs.index import RunRecord, now
from tidemill.batch.ledger import decode_kept
from tidemill.batch.manifest import RunManifest, find_manifest
from tidemill.batch.plan import Plan
from tidemill.batch.stage import HELD, Stage, open_stage
from tidemill.batch.targets.published import published, unpublished
from tidemill.errors import NotFound, RunError

__all__ = ["recall"]


def recall(place: str) -> RunRecord:
    """The record of the run whose output, manifest or stage this is. Raises NotFound, RunError where it is damaged or
    its target does not hold the run, and SinkError where that cannot be asked.
    """
    found = find_manifest(place)
    manifest = None
    if found is not None:
        manifest = decode_kept(found[1], RunManifest, found[0])
        if manifest.state != "done":
            above = found[0].rpartition("/")[0]
            raise RunError(f"{found[0]}: is of a run that is {manifest.state}; give its stage, {above}")
        there = published(found[0], manifest)
        if there is not None:
            return _of_manifest(there, found[0])
    where = place if remote(place) else str(Path(place).absolute())
    stage = open_stage(where) if remote(place) or Path(where).is_dir() else None
    plan = None if stage is None else stage.get("plan.json")
    if stage is not None and plan is not None:
        return _of_stage(stage, decode_kept(plan, Plan, f"{where}/plan.json"))
    if found is not None and manifest is not None:
        raise unpublished(found[0], manifest)
    raise NotFound(f"{place}: neither an output with a manifest, nor a manifest, nor a stage")


def _of_manifest(manifest: RunManifest, where: str) -> RunRecord:
    return msgspec.structs.replace(
        _common(manifest.plan),
        job=manifest.job,
        state="done",
        manifest=where,
        finished_at=manifest.finished_at,
        **_figures(manifest),
    )


def _of_stage(stage: Stage, plan: Plan) -> RunRecord:
    record = msgspec.structs.replace(
        _common(plan),
        stage=stage.where,
        error="was cut off before its commit; the same command with its run id goes on",
    )
    told = stage.get("manifest.json")
    if told is not None:
        manifest = decode_kept(told, RunManifest, f"{stage.where}/manifest.json")
        state = "held" if stage.get(HELD) is not None else manifest.state
        checks = [c.told for c in manifest.checks if not c.passed]
        record = msgspec.structs.replace(
            record,
            job=manifest.job,
            state=state,
            manifest=f"{stage.where}/manifest.json",
            finished_at=manifest.finished_at,
            error="; ".join(checks) or None,
            **_figures(manifest),
        )
    return record


def _common(plan: Plan) -> RunRecord:
    return RunRecord(
        format=1,
        run_id=plan.run_id,
        state="failed",
        package=plan.package.name,
        source=plan.job.source,
        output=plan.job.sink.uri,
        sink=plan.job.sink,
        stage="",
        created_at=plan.created_at,
        updated_at=now(),
        total_rows=plan.total_rows,
        shards=len(plan.shards),
    )


def _figures(manifest: RunManifest) -> dict[str, object]:
    seconds = manifest.seconds
    return {
        "read": manifest.read,
        "written": manifest.written,
        "dead": manifest.dead,
        "errors": manifest.errors,
        "attempts": manifest.attempts,
        "dead_letters": manifest.dead_letters,
        "shards_done": len(manifest.plan.shards),
        "seconds": seconds,
        "cost": manifest.cost,
        "rows_per_second": round(manifest.read / seconds, 1) if seconds > 0 else 0.0,
        "cpu_seconds": manifest.cpu_seconds,
        "peak_rss_bytes": manifest.peak_rss_bytes,
        "outputs": manifest.outputs,
        "checks": manifest.checks,
    }
