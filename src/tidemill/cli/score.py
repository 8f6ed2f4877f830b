"""`tidemill score`: a table through the model into another table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tidemill.cli.console import errors, names, output, table
from tidemill.cli.progress import shown_progress
from tidemill.errors import BudgetExceeded

if TYPE_CHECKING:
    from tidemill.batch import Progress, RunReport

__all__ = ["score"]


def score(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="The package.")],
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Files (a path, a directory, a glob), or the URI of what is read.")
    ],
    sink: Annotated[
        str,
        typer.Argument(metavar="OUTPUT", help="A file, a directory of Parquet files, or the URI of what is written."),
    ],
    chunk_rows: Annotated[int, typer.Option(metavar="N", help="Rows read and written at a time.")] = 16_384,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Threads; all cores if left out.")] = None,
    select: Annotated[list[str] | None, typer.Option(metavar="COLS", help="Outputs to write; all if left out.")] = None,
    pass_through: Annotated[
        list[str] | None, typer.Option(metavar="COLS", help="Input columns to copy beside them ('*': all).")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Name of the run; the same name again resumes it.")
    ] = None,
    max_error_rate: Annotated[
        float | None, typer.Option(metavar="R", help="Share of rows that may fail, 0 to 1; any if left out.")
    ] = None,
    dead_letters: Annotated[
        str | None, typer.Option(metavar="PATH", help="File for the rows without an answer (.parquet or .jsonl).")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(metavar="MODE", help="create, overwrite, append or upsert: what becomes of rows that are there."),
    ] = "create",
    key: Annotated[
        list[str] | None, typer.Option(metavar="COLS", help="Columns by which an upsert finds the rows to replace.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output: --mode overwrite.")
    ] = False,
    engine: Annotated[str, typer.Option(metavar="NAME", help="Where shards are scored.")] = "local",
    stage: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Where the run keeps what is sealed until it is published.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and no progress.")] = False,
) -> None:
    """Score every row of INPUT into OUTPUT, or, with its reason, into the dead letters.

    Exit code 3: more rows failed than --max-error-rate allows, and no output was committed.
    """
    from tidemill.batch import RunReport, ScoreOptions
    from tidemill.batch import score as run
    from tidemill.config import decode

    given = {
        "chunk_rows": chunk_rows,
        "workers": workers,
        "select": names(select),
        "pass_through": names(pass_through),
        "run_id": run_id,
        "max_error_rate": max_error_rate,
        "dead_letters": dead_letters,
        "mode": "overwrite" if overwrite else mode,
        "key": names(key),
        "engine": {"name": engine},
        "stage": stage,
    }
    options = decode(given, ScoreOptions, "score")
    latest: list[Progress] = []
    try:
        with shown_progress(errors(), quiet=json) as show:

            def progress(moment: Progress) -> None:
                latest[:] = [moment]
                if show is not None:
                    show(moment)

            report = run(directory, source, sink, options, progress)
    except KeyboardInterrupt:
        for moment in latest:
            errors().print(
                f"interrupted; the same command with --run-id {escape(moment.run_id)} goes on", soft_wrap=True
            )
        raise
    except BudgetExceeded as error:
        if isinstance(error.report, RunReport):
            _show(error.report, json)
        raise
    _show(report, json)


def _show(report: RunReport, json: bool) -> None:
    """The run's numbers: read = written + dead."""
    if json:
        typer.echo(report.to_json())
        return
    words = {"done": "done", "already_done": "was done already; nothing to do", "over_budget": "over the error budget"}
    rows = [
        ("read", f"{report.read:,}", ""),
        (
            "= written",
            f"{report.written:,}",
            escape(report.output) if report.state != "over_budget" else "not committed",
        ),
        ("+ dead", f"{report.dead:,}", escape(report.dead_letters or "")),
        *((f"    {escape(code)}", f"{count:,}", "") for code, count in sorted(report.errors.items())),
    ]
    console = output()
    console.print(table("rows", "count", "where", numbers=["count"], rows=rows))
    console.print(
        f"run {escape(report.run_id)}: {words[report.state]}, {report.seconds:.1f} s, "
        f"{report.rows_per_second:,.0f} rows/s, {report.peak_rss_bytes / 1e6:,.0f} MB at most; "
        f"manifest {escape(report.manifest)}",
        soft_wrap=True,
    )
