"""`tidemill job`: what a job file comes to, what a run of it would be, and that run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from tidemill.cli.aws_batch import submit
from tidemill.cli.console import Json, emit_json, only_results, output, table, text_of
from tidemill.cli.progress import describe_seconds
from tidemill.cli.running import run_shown

if TYPE_CHECKING:
    from tidemill.batch.jobs.plan import JobPlan

__all__ = ["job"]

File = Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the file, as errors.max_rate=0.01."),
]

job = typer.Typer(no_args_is_help=True, help="Runs that are made again and again, each as its job file says.")


@job.command()
def validate(file: File, changes: Changes = None, json: Json = False) -> None:
    """Read a job file and name all that is wrong with it. Nothing is opened."""
    from tidemill.batch.job import read_job
    from tidemill.batch.places import parse_place

    found = read_job(file, changes or ())
    if json:
        emit_json(
            {
                "name": found.name,
                "package": found.package,
                "source": parse_place(found.source).shown,
                "sink": parse_place(found.sink).shown,
                "options": msgspec.to_builtins(found.options),
            }
        )
    else:
        output().print(f"{escape(str(file))}: job {escape(found.name)} can be read", soft_wrap=True)


@job.command()
def plan(file: File, changes: Changes = None, json: Json = False) -> None:
    """Show what a run would be: shards, rows, the sink's guarantee, and time and cost by a trial of the first rows.

    Package, input and sink are opened; rows are scored for about a second, and nothing is written that stays.
    """
    from tidemill.batch.job import read_job
    from tidemill.batch.jobs.plan import plan_job

    with only_results():
        found = plan_job(read_job(file, changes or ()))
    if json:
        emit_json(msgspec.to_builtins(found))
    else:
        _show(found)


@job.command()
def run(
    file: File,
    changes: Changes = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Name of the run; the same name again resumes it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and no progress.")] = False,
) -> None:
    """Make a run of a job. On AWS Batch, submit it and wait for its end (`tidemill job submit` does not wait).

    Exit code 3: over the error budget. Exit code 5: complete, but its gate failed and it is held; `tidemill run
    publish` or `tidemill run discard` decides.
    """
    from tidemill.batch.job import read_job

    given = [*(changes or ()), *([] if run_id is None else [f"run_id={text_of(run_id)}"])]
    run_shown(read_job(file, given), file, json)


job.command()(submit)


def _show(plan: JobPlan) -> None:
    unknown = "known once the input is copied" if plan.files is None else "known once the input is read"
    rows = unknown if plan.rows is None else f"{'about ' if plan.rows_estimated else ''}{plan.rows:,}"
    origin = ", ".join(f"{name} {value}" for name, value in plan.origin.items())
    workers = "" if plan.workers is None else f", {plan.workers:,} workers"
    calls = "" if plan.call_rows is None else f", calls of {plan.call_rows:,} rows"
    trial = plan.trial
    if trial is not None:
        tried = f"{trial.rows:,} rows in {trial.seconds:.2f} s by one worker, {trial.rows_per_second:,.0f} rows/s"
        tried += f"; {trial.dead:,} dead"
    else:
        tried = unknown if plan.files is None else "no rows to try"
    if plan.seconds is not None:
        seconds = f"about {describe_seconds(plan.seconds)}"
        cost = "no price_per_hour given" if plan.cost is None else f"about {plan.cost:,.4f}"
    else:
        seconds = cost = "as the cluster is large" if plan.workers is None else unknown
    facts = [
        ("package", f"{plan.package} version {plan.version}"),
        ("source", plan.source + (f" ({origin})" if origin else "")),
        ("files", unknown if plan.files is None else f"{plan.files:,} ({plan.format}), {plan.bytes:,} bytes"),
        ("rows", rows),
        ("shards", unknown if plan.shards is None else f"{plan.shards:,}"),
        ("sink", f"{plan.sink}, mode {plan.mode}"),
        ("guarantee", plan.guarantee),
        ("engine", plan.engine + workers + calls),
        ("trial", tried),
        ("time", seconds),
        ("cost", cost),
    ]
    console = output()
    console.print(table(f"job {escape(plan.job)}", "", rows=[(name, escape(value)) for name, value in facts]))
