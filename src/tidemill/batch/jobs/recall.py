"""A run's record made anew from what the run left: its manifest, or its stage."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.jobs.index import RunRecord, now
from tidemill.batch.ledger import decode_kept
from tidemill.batch.manifest import RunManifest, find_manifest
from tidemill.batch.plan import Plan
from tidemill.batch.run import HELD
from tidemill.batch.stage import Stage, open_stage
from tidemill.errors import NotFound, RunError

__all__ = ["recall"]


def recall(place: str) -> RunRecord:
    """The record of the run whose output, manifest or stage this is. Raises NotFound, RunError where it is damaged."""
    found = find_manifest(place)
    if found is not None:
        where, manifest = found
        return _of_manifest(decode_kept(manifest, RunManifest, where), where)
    if not remote(place):
        path = Path(place).absolute()
        if not path.is_dir():
            raise NotFound(f"{place}: neither an output with a manifest, nor a manifest, nor a stage")
        place = str(path)
    stage = open_stage(place)
    data = stage.get("plan.json")
    if data is None:
        raise NotFound(f"{place}: neither an output with a manifest, nor a manifest, nor a stage")
    return _of_stage(stage, decode_kept(data, Plan, f"{place}/plan.json"))


def _of_manifest(manifest: RunManifest, where: str) -> RunRecord:
    if manifest.state != "done":
        raise RunError(f"{where}: is of a run that is {manifest.state}; give its stage, {where.rpartition('/')[0]}")
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
