"""`tidemill score`: a table through the model into another table."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.console import names
from tidemill.cli.running import run_shown
from tidemill.errors import ConfigError

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
    call_rows: Annotated[
        int | None, typer.Option(metavar="N", help="Rows of one model call; measured if left out.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Threads or processes; all cores if left out.")
    ] = None,
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
    max_errors: Annotated[
        int | None, typer.Option(metavar="N", help="Rows that may fail; any number if left out.")
    ] = None,
    call_timeout: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds one model call may take, or its process is killed.")
    ] = None,
    shard_timeout: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds one try of a shard may take.")
    ] = None,
    run_timeout: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds this execution may take; the run can be resumed.")
    ] = None,
    worker_memory: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Memory a process may have for itself, or it is killed.")
    ] = None,
    transient_tries: Annotated[
        int, typer.Option(metavar="N", help="How often a call is made whose failure the model calls transient.")
    ] = 5,
    shard_tries: Annotated[
        int, typer.Option(metavar="N", help="How often a shard is tried that cannot be read or is late.")
    ] = 3,
    on_poisoned_shard: Annotated[
        str, typer.Option(metavar="WHAT", help="After that: fail, or quarantine its rows as dead letters.")
    ] = "fail",
    retry_dead: Annotated[
        bool, typer.Option("--retry-dead", help="INPUT is a run's output or manifest: score its dead letters.")
    ] = False,
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
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="Where shards are scored: local, spark or ray.")
    ] = "local",
    stage: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Where the run keeps what is sealed until it is published.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and no progress.")] = False,
) -> None:
    """Score every row of INPUT into OUTPUT, or, with its reason, into the dead letters.

    Exit code 3: more rows failed than --max-errors or --max-error-rate allow, and no output was committed.
    """
    from tidemill.batch import ScoreOptions
    from tidemill.batch.job import Job
    from tidemill.config import decode

    given = {
        "chunk_rows": chunk_rows,
        "call_rows": call_rows,
        "workers": workers,
        "select": names(select),
        "pass_through": names(pass_through),
        "run_id": run_id,
        "max_error_rate": max_error_rate,
        "max_errors": max_errors,
        "call_timeout": call_timeout,
        "shard_timeout": shard_timeout,
        "run_timeout": run_timeout,
        "worker_memory": worker_memory,
        "transient_tries": transient_tries,
        "shard_tries": shard_tries,
        "on_poisoned_shard": on_poisoned_shard,
        "dead_letters": dead_letters,
        "mode": _mode(mode, overwrite),
        "key": names(key),
        "engine": {"name": engine},
        "stage": stage,
    }
    options = decode(given, ScoreOptions, "score")
    if retry_dead:
        from tidemill.batch.retry import dead_letters_of

        source, options = dead_letters_of(source, options)
    run_shown(Job(package=directory, source=source, sink=sink, options=options), None, json)


def _mode(mode: str, overwrite: bool) -> str:
    if overwrite and mode not in ("create", "overwrite"):
        raise ConfigError(f"--overwrite replaces what --mode {mode} would keep: give one of them")
    return "overwrite" if overwrite else mode
