"""The execution of a plan: what is sealed is kept, the rest is scored, everything is counted, and committed."""

from __future__ import annotations

import resource
import sys
from datetime import UTC, datetime
from typing import Literal

import msgspec

from tidemill.batch.engines.base import Work, engine
from tidemill.batch.ledger import Sealed
from tidemill.batch.manifest import RunManifest, checked_manifest
from tidemill.batch.options import RunReport
from tidemill.batch.stage import Stage
from tidemill.batch.targets import Target
from tidemill.batch.targets.letters import join_dead
from tidemill.batch.watch import Watch
from tidemill.errors import BudgetExceeded

__all__ = ["report", "run_plan"]


def run_plan(work: Work, target: Target) -> RunReport:
    """Bring a run to its end, and take its stage away. Raises RunError or one of its kinds; the stage then stays."""
    plan, stage, watch = work.plan, work.stage, work.watch
    stage.clean()
    sealed = stage.sealed(plan)
    resumed = len(sealed)
    publication = target.publication(plan, stage, plan.output_schema(work.live))

    def keep(marker: Sealed) -> None:
        sealed[marker.shard] = marker
        publication.add(marker)

    def manifest(state: Literal["done", "over_budget"]) -> RunManifest:
        markers = [sealed[i] for i in sorted(sealed)]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return checked_manifest(plan, markers, stage, state=state, finished_at=now, seconds=watch.seconds)

    try:
        for marker in list(sealed.values()):
            watch.resumed(marker.read, marker.errors)
            keep(marker)
        pending = [s for s in plan.shards if s.index not in sealed]
        engine(work.options.engine.name)(work, pending, keep)
        watch.finish()
        markers = [sealed[i] for i in sorted(sealed)]
        record = manifest("done")
        if record.dead and not (plan.job.sink.directory and plan.job.dead_letters is None):
            join_dead(record, markers, stage)
        record = publication.commit(record, markers)
    except BudgetExceeded as error:
        raise _over_budget(error, manifest("over_budget"), stage, watch, resumed) from None
    finally:
        publication.abandon()
    stage.remove()
    return report(record, "done", resumed=resumed, seconds=watch.seconds, fresh_rows=watch.fresh_rows)


def report(
    manifest: RunManifest,
    state: Literal["done", "already_done", "over_budget"],
    *,
    resumed: int = 0,
    seconds: float = 0.0,
    fresh_rows: int = 0,
) -> RunReport:
    """The report of a run whose manifest this is, of which `fresh_rows` were scored in these seconds."""
    plan = manifest.plan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return RunReport(
        run_id=plan.run_id,
        state=state,
        read=manifest.read,
        written=manifest.written,
        dead=manifest.dead,
        errors=manifest.errors,
        files=len(plan.files),
        shards=len(plan.shards),
        resumed_shards=resumed,
        seconds=round(seconds, 3),
        rows_per_second=round(fresh_rows / seconds, 1) if seconds > 0 else 0.0,
        peak_rss_bytes=peak if sys.platform == "darwin" else peak * 1024,
        output=plan.job.sink.uri,
        dead_letters=manifest.dead_letters,
        manifest=plan.job.sink.manifest,
    )


def _over_budget(
    error: BudgetExceeded, manifest: RunManifest, stage: Stage, watch: Watch, resumed: int
) -> BudgetExceeded:
    """The error for the user, with its report: what was read so far, and where the stage keeps it to be looked at."""
    stage.put("manifest.json", msgspec.json.encode(manifest))
    letters = f"{stage.where}/dead"
    read, dead, errors = watch.totals()
    told = msgspec.structs.replace(
        report(manifest, "over_budget", resumed=resumed, seconds=watch.seconds, fresh_rows=watch.fresh_rows),
        read=read,
        written=read - dead,
        dead=dead,
        errors=errors,
        dead_letters=letters,
        manifest=f"{stage.where}/manifest.json",
    )
    return BudgetExceeded(f"{error}; nothing is published; the dead letters are in {letters}", report=told)
