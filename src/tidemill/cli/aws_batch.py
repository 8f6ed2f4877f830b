"""Runs on AWS Batch on the command line: `tidemill job submit`, and of `tidemill run` status and logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from tidemill.cli.console import Json, emit_json, output, table, text_of
from tidemill.cli.progress import describe_seconds
from tidemill.cli.running import show_report

if TYPE_CHECKING:
    from tidemill.batch.engines.aws_batch.jobs import BatchStatus

__all__ = ["cancelled", "logs", "status", "submit"]

Run = Annotated[str, typer.Argument(metavar="ID", help="The run's id, or its root (s3://bucket/prefix/ID).")]


def submit(
    file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="aws_batch; the file's own if left out.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Replace a field of the file, as engine.aws_batch.children=40."
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Name of the run; that of one which failed or was cancelled goes on with it."),
    ] = None,
    json: Json = False,
) -> None:
    """Give a run of a job to AWS Batch, which scores it in containers and commits it in the last of them.

    Package and plan are put where the containers find them, below engine.aws_batch.stage.
    """
    from tidemill.batch import RunReport
    from tidemill.batch.engines.aws_batch.submit import submit as give
    from tidemill.batch.job import read_job

    given = [*(changes or ())]
    given += [
        f"{field}={text_of(value)}"
        for field, value in (("engine.name", engine), ("run_id", run_id))
        if value is not None
    ]
    found = give(read_job(file, given), file=file)
    if isinstance(found, RunReport):
        show_report(found, json)
    elif json:
        emit_json(msgspec.to_builtins(found))
    else:
        made = found.submission
        run, commit = escape(found.run_id), escape(str(made.commit_job))
        by = "" if made.score_job is None else f" by job {escape(made.score_job)}, {made.size:,} at once"
        output().print(
            f"run {run}: {len(made.shards):,} of {found.shards:,} shards to score{by}; then job {commit} commits; "
            f"`tidemill run status {run}` tells how it goes",
            soft_wrap=True,
        )


def status(run: Run, json: Json = False) -> None:
    """Show how a run on AWS Batch stands: its children, its shards, and what failed."""
    from tidemill.batch.engines.aws_batch.runs import find_run, run_status
    from tidemill.batch.jobs.index import RunIndex

    index = RunIndex()
    found = run_status(find_run(run, index), index)
    if json:
        emit_json(msgspec.to_builtins(found))
    else:
        _print(found)


def cancelled(run: str, json: bool) -> bool:
    """End the jobs of a run on AWS Batch, and say so; False for a run of another engine."""
    from tidemill.batch.engines.aws_batch.runs import cancel_run, find_run
    from tidemill.batch.jobs.index import RunIndex

    index = RunIndex()
    if "://" not in run and index.get(run).engine != "aws_batch":
        return False
    found = find_run(run, index)
    cancel_run(found, index)
    told = {"run_id": found.order.run_id, "state": "cancelled"}
    if json:
        emit_json(told)
    else:
        output().print(f"run {escape(told['run_id'])}: cancelled; what is sealed stays in {escape(found.root.where)}")
    return True


def logs(
    run: Run,
    child: Annotated[
        int | None,
        typer.Option(metavar="N", help="One child; if left out, those that failed and the job that commits."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each line as a JSON object.")] = False,
) -> None:
    """Show what the containers of a run on AWS Batch wrote, every attempt from its beginning."""
    from tidemill.batch.engines.aws_batch.runs import find_run, run_logs
    from tidemill.batch.jobs.index import RunIndex

    for line in run_logs(find_run(run, RunIndex()), child):
        if json:
            typer.echo(msgspec.json.encode(line).decode())
        else:
            who = "commit" if line.child is None else f"child {line.child}"
            typer.echo(f"{who}, attempt {line.attempt}: {line.at} {line.text}")


def _print(found: BatchStatus) -> None:
    left = "" if found.seconds_left is None else f", {describe_seconds(found.seconds_left)} left"
    children = ", ".join(f"{count:,} {state}" for state, count in sorted(found.children.items()))
    facts: list[tuple[str, str | None]] = [
        ("state", found.state),
        ("shards", f"{found.sealed:,} of {found.shards:,} sealed{left}"),
        ("children", children or None),
        ("commit", found.commit),
        ("submitted", f"{found.submitted_at} (submission {found.submission})"),
        ("root", found.root),
    ]
    for one in found.failures:
        who = "commit" if one.child is None else f"child {one.child}"
        code = "" if one.exit_code is None else f" (exit code {one.exit_code})"
        facts.append((who, f"failed{code}: {one.reason}"))
    rows = [(name, escape(value)) for name, value in facts if value]
    output().print(table(f"run {escape(found.run_id)}", "", rows=rows))
