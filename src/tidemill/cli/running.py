"""A run on the command line: its progress, its numbers at the end, and what to do when it is cut off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from tidemill.cli.console import errors, only_results, output, table
from tidemill.cli.progress import shown_progress
from tidemill.errors import BudgetExceeded, Held

if TYPE_CHECKING:
    from tidemill.batch import RunReport
    from tidemill.batch.job import Job

__all__ = ["run_shown", "show_report", "warn"]

_WORDS = {
    "done": "done",
    "already_done": "was done already; nothing to do",
    "over_budget": "over the error budget",
    "held": "held",
}


def run_shown(job: Job, file: Path | None, json: bool) -> None:
    """Make a run of a job, wherever, and show it. Raises what the run raises, once its numbers are shown where it has
    any.
    """
    from tidemill.batch import RunReport
    from tidemill.batch.jobs.conduct import identified, run_job

    job = identified(job)
    there = job.options.engine.name == "aws_batch"
    run = run_job
    if there:
        from tidemill.batch.engines.aws_batch.wait import run_there as run
    _steady_memory()
    try:
        with only_results(), shown_progress(errors(), quiet=json) as show:
            report = run(job, file=file, progress=show, tell=warn)
    except KeyboardInterrupt:
        run_id = escape(str(job.options.run_id))
        on = f"AWS Batch goes on; `tidemill run cancel {run_id}` ends it, " if there else ""
        word = "waits again" if there else "goes on"
        errors().print(f"interrupted; {on}the same command with --run-id {run_id} {word}", soft_wrap=True)
        raise
    except (BudgetExceeded, Held) as error:
        if isinstance(error.report, RunReport):
            show_report(error.report, json, job.price_per_hour)
        raise
    show_report(report, json, job.price_per_hour)


def _steady_memory() -> None:
    """Give Arrow its memory from jemalloc where this build has it, unless the user says where from: by Arrow's own
    choice the peaks of one and the same run lay a quarter apart.
    """
    import pyarrow as pa

    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ and "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())


def show_report(report: RunReport, json: bool, price_per_hour: float | None = None) -> None:
    """The run's numbers: read = written + dead; and what it cost, where a price is known."""
    if json:
        typer.echo(report.to_json())
        return
    published = report.state in ("done", "already_done")
    rows = [
        ("read", f"{report.read:,}", ""),
        ("= written", f"{report.written:,}", escape(report.output) if published else "not committed"),
        ("+ dead", f"{report.dead:,}", escape(report.dead_letters or "")),
        *((f"    {escape(code)}", f"{count:,}", "") for code, count in sorted(report.errors.items())),
    ]
    console = output()
    console.print(table("rows", "count", "where", numbers=["count"], rows=rows))
    console.print(
        f"run {escape(report.run_id)}: {_WORDS[report.state]}, {report.seconds:.1f} s, "
        f"{report.rows_per_second:,.0f} rows/s, {report.peak_rss_bytes / 1e6:,.0f} MB at most; "
        f"manifest {escape(report.manifest)}",
        soft_wrap=True,
    )
    words = [f"chunks of {report.chunk_rows:,} rows, calls of {report.call_rows:,}"]
    if report.quarantined_shards:
        words.append(f"{report.quarantined_shards:,} shards set aside")
    if report.worker_deaths:
        words.append(f"{report.worker_deaths:,} processes ended while they answered")
    if price_per_hour is not None:
        words.append(f"cost about {report.seconds / 3600 * price_per_hour:,.4f}")
    console.print("; ".join(words), soft_wrap=True)


def warn(text: str) -> None:
    """What went wrong beside a run, and changes nothing of it."""
    errors().print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)
