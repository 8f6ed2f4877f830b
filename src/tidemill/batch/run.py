"""The execution of a plan: what is sealed is kept, the rest is scored, everything is counted, and committed."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from tidemill.batch.assembly import Assembly
from tidemill.batch.commit import commit
from tidemill.batch.engines.local import run_local
from tidemill.batch.ledger import Ledger, Sealed, write_durably
from tidemill.batch.manifest import RunManifest, checked_manifest, manifest_path
from tidemill.batch.options import Progress, RunReport
from tidemill.batch.plan import Plan
from tidemill.batch.watch import Watch
from tidemill.errors import BudgetExceeded
from tidemill.prediction.live import Live

__all__ = ["report", "run_plan"]


def run_plan(
    live: Live,
    plan: Plan,
    ledger: Ledger,
    *,
    workers: int,
    overwrite: bool,
    tell: Callable[[Progress], None] | None,
) -> RunReport:
    """Bring a run to its end, and take its ledger away. Raises RunError or one of its kinds; the ledger then stays."""
    sealed = ledger.sealed(plan)
    resumed = len(sealed)
    watch = Watch(plan.run_id, plan.total_rows, len(plan.shards), plan.job.max_error_rate, tell)
    joined = None if plan.job.sink.directory else Assembly(plan, ledger.stage, plan.output_schema(live))

    def keep(marker: Sealed) -> None:
        sealed[marker.shard] = marker
        if joined is not None:
            joined.add(marker)

    def manifest(state: Literal["done", "over_budget"]) -> RunManifest:
        markers = [sealed[i] for i in sorted(sealed)]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return checked_manifest(plan, markers, ledger.stage, state=state, finished_at=now, seconds=watch.seconds)

    try:
        for marker in list(sealed.values()):
            watch.resumed(marker.read, marker.errors)
            keep(marker)
        pending = [s for s in plan.shards if s.index not in sealed]
        run_local(live, plan, pending, ledger.stage, workers, watch, keep)
        watch.finish()
        record = manifest("done")
        commit(record, [sealed[i] for i in sorted(sealed)], ledger.stage, joined, overwrite=overwrite)
    except BudgetExceeded as error:
        raise _over_budget(error, manifest("over_budget"), ledger.stage, watch, resumed) from None
    finally:
        if joined is not None:
            joined.abandon()
    ledger.remove()
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
        output=plan.job.sink.path,
        dead_letters=manifest.dead_letters,
        manifest=str(manifest_path(plan.job.sink)),
    )


def _over_budget(
    error: BudgetExceeded, manifest: RunManifest, stage: Path, watch: Watch, resumed: int
) -> BudgetExceeded:
    """The error for the user, with its report: what was read so far, and where the stage keeps it to be looked at."""
    where, letters = stage / "manifest.json", stage / "dead"
    write_durably(where, msgspec.json.encode(manifest))
    read, dead, errors = watch.totals()
    told = msgspec.structs.replace(
        report(manifest, "over_budget", resumed=resumed, seconds=watch.seconds, fresh_rows=watch.fresh_rows),
        read=read,
        written=read - dead,
        dead=dead,
        errors=errors,
        dead_letters=str(letters),
        manifest=str(where),
    )
    return BudgetExceeded(f"{error}; nothing is published; the dead letters are in {letters}", report=told)
