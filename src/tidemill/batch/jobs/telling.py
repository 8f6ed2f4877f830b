"""Who is told of a run: its hooks once it has ended, its metrics from time to time. Neither changes anything of it."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException

import msgspec

from tidemill.batch.jobs.hooks import Hooks, run_hooks
from tidemill.batch.jobs.index import RunIndex, RunRecord, now
from tidemill.batch.jobs.metrics import Metrics, push, write_textfile

__all__ = ["keep_record", "tell_end", "tell_metrics"]

_LEFT_OUT = frozenset({"format", "outputs", "driver", "hooks"})


def tell_end(
    record: RunRecord, index: RunIndex, hooks: Hooks, metrics: Metrics, warn: Callable[[str], None]
) -> RunRecord:
    """Put the end of a run on record, run its hooks, put on record what became of them, and tell the metrics. `warn`
    hears of each thing that went wrong.
    """
    keep_record(record, index, warn)
    results = run_hooks(hooks, {name: value for name, value in record.plain().items() if name not in _LEFT_OUT})
    for result in results:
        if not result.passed:
            warn(f"hook {result.kind}: {result.told}")
    if results:
        record = msgspec.structs.replace(record, hooks=tuple(results), updated_at=now())
        keep_record(record, index, warn)
    last_done = index.last_done(record.job, but=record.run_id) if record.job else None
    tell_metrics(record, last_done, metrics, warn)
    return record


def tell_metrics(record: RunRecord, last_done: RunRecord | None, metrics: Metrics, warn: Callable[[str], None]) -> None:
    """Tell those that the job asks for; `last_done` is the last published run of the job before this one."""
    for wanted, send in ((metrics.textfile, write_textfile), (metrics.pushgateway, push)):
        if wanted is not None:
            try:
                send(metrics, record, last_done)
            except (OSError, HTTPException, ValueError, OverflowError) as error:
                warn(f"metrics are not told: {error}")


def keep_record(record: RunRecord, index: RunIndex, warn: Callable[[str], None]) -> None:
    """Put a run on record; `warn` hears of an index that cannot be written, which changes nothing of the run."""
    try:
        index.write(record)
    except OSError as error:
        warn(f"the run is not on record: {error}")
