"""`tidemill run`: the runs of this machine, and what becomes of those that wait or are under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.markup import escape

from tidemill.cli.aws_batch import cancelled, logs, status
from tidemill.cli.console import Json, emit_json, output, table
from tidemill.cli.progress import describe_seconds
from tidemill.cli.running import warn
from tidemill.errors import ConfigError

if TYPE_CHECKING:
    from tidemill.batch.jobs.index import RunRecord

__all__ = ["run"]

Id = Annotated[str, typer.Argument(metavar="ID", help="The run's id.")]

run = typer.Typer(
    no_args_is_help=True,
    help="Runs that were made from here: how they stand, and publishing, discarding and cancelling them. The index is "
    "in $TIDEMILL_HOME/runs, or else ~/.local/state/tidemill/runs.",
)


@run.command("list")
def list_(
    job: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this job.")] = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="Only runs that are planned, running, committing, held, done, failed, …"),
    ] = None,
    json: Json = False,
) -> None:
    """List the runs that the index knows, the latest first."""
    from tidemill.batch.jobs.index import RunIndex, State, seen_now

    if state is not None and state not in get_args(State):
        raise ConfigError(f"--state {state}: expected {', '.join(get_args(State))}")
    found = [seen_now(r) for r in RunIndex().all()]
    found = [r for r in found if job in (None, r.job) and state in (None, r.state)]
    if json:
        emit_json([r.plain() for r in found])
        return
    rows = [
        (
            escape(r.run_id),
            escape(r.job),
            r.state,
            f"{r.read:,}",
            f"{r.dead:,}",
            r.created_at[:19].replace("T", " "),
            describe_seconds(r.seconds),
            escape(r.output),
        )
        for r in found
    ]
    columns = ("run", "job", "state", "read", "dead", "begun (UTC)", "took", "output")
    output().print(table(*columns, numbers=("read", "dead", "took"), rows=rows))


@run.command()
def show(run_id: Id, json: Json = False) -> None:
    """Show all that is known of a run."""
    from tidemill.batch.jobs.index import RunIndex, seen_now

    record = seen_now(RunIndex().get(run_id))
    if json:
        emit_json(record.plain())
    else:
        _print(record)


run.command()(status)
run.command()(logs)


@run.command()
def publish(run_id: Id, json: Json = False) -> None:
    """Publish a run that is held, by the same commit as any; safe to repeat."""
    from tidemill.batch.jobs.decide import publish_run
    from tidemill.batch.jobs.index import RunIndex

    _decided(publish_run(run_id, RunIndex(), warn), json)


@run.command()
def discard(run_id: Id, json: Json = False) -> None:
    """Give a run up that is held, or that ended before its commit: its stage is removed, and nothing published."""
    from tidemill.batch.jobs.decide import discard_run
    from tidemill.batch.jobs.index import RunIndex

    _decided(discard_run(run_id, RunIndex(), warn), json)


@run.command()
def cancel(
    run_id: Id,
    wait: Annotated[float, typer.Option(metavar="S", help="Seconds to wait for its end.")] = 60.0,
    json: Json = False,
) -> None:
    """End a run that is under way. What is sealed stays: the same job with the same run id goes on."""
    from tidemill.batch.jobs.decide import cancel_run
    from tidemill.batch.jobs.index import RunIndex

    if not cancelled(run_id, json):
        _decided(cancel_run(run_id, RunIndex(), wait), json)


@run.command()
def add(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="An output, its manifest, or the stage of a run.")],
    json: Json = False,
) -> None:
    """Take a run up into the index, from what it left: for an index that was lost, or a run made elsewhere."""
    from tidemill.batch.jobs.index import RunIndex
    from tidemill.batch.jobs.recall import recall

    index = RunIndex()
    record = recall(place)
    index.write(record)
    _decided(record, json)


def _decided(record: RunRecord, json: bool) -> None:
    if json:
        emit_json(record.plain())
    else:
        output().print(f"run {escape(record.run_id)}: {record.state}, {escape(record.output)}", soft_wrap=True)


def _print(record: RunRecord) -> None:
    left = record.seconds_left if record.under_way else None
    facts: list[tuple[str, str | None]] = [
        ("job", record.job),
        ("state", record.state),
        ("error", record.error),
        ("package", record.package),
        ("source", record.source),
        ("output", record.output),
        ("stage", record.stage if record.state != "done" else None),
        ("manifest", record.manifest),
        ("dead letters", record.dead_letters),
        ("engine", record.engine),
        ("driver", f"process {record.driver.pid} on {record.driver.host}" if record.driver is not None else None),
        ("begun", record.created_at),
        ("ended", record.finished_at),
        ("shards", f"{record.shards_done:,} of {record.shards:,}"),
        ("repeated", ", ".join(f"shard {s} {n} times" for s, n in record.attempts.items())),
        ("rows", f"{record.read:,} read = {record.written:,} written + {record.dead:,} dead"),
        ("errors", ", ".join(f"{code} {n:,}" for code, n in sorted(record.errors.items()))),
        (
            "rate",
            f"{record.rows_per_second:,.0f} rows/s" + ("" if left is None else f", {describe_seconds(left)} left"),
        ),
        ("took", f"{record.seconds:,.1f} s, {record.cpu_seconds:,.1f} s of CPU, {record.peak_rss_bytes / 1e6:,.0f} MB"),
        ("cost", None if record.cost is None else f"{record.cost:,.4f}"),
    ]
    facts += [("check", f"{'passed' if c.passed else 'FAILED'}: {c.told}") for c in record.checks]
    facts += [("hook", f"{h.kind}: {'told' if h.passed else h.told}") for h in record.hooks]
    for name, one in record.outputs.items():
        low, middle, high = (one.quantile(q) for q in (0.05, 0.5, 0.95))
        if middle is not None:
            facts.append((f"{name}", f"5 % {low:.4g}, 50 % {middle:.4g}, 95 % {high:.4g}, {one.null_rate:.2%} null"))
        elif one.texts:
            most = sorted(one.texts.items(), key=lambda t: -t[1])[:6]
            facts.append((f"{name}", ", ".join(f"{text} {n / one.cells:.1%}" for text, n in most)))
    console = output()
    console.print(table(f"run {escape(record.run_id)}", "", rows=[(escape(n), escape(v)) for n, v in facts if v]))
