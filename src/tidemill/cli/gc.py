"""`tidemill gc`: remove what runs left behind."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from tidemill.cli.console import Json, emit_json, output, table
from tidemill.cli.progress import describe_seconds

__all__ = ["gc"]


def gc(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PLACE]...",
            help="Outputs, directories of outputs, prefixes of stores; where the indexed runs are if left out.",
        ),
    ] = None,
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Untouched for that long: 12h, 7d, 2w.")] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    json: Json = False,
) -> None:
    """Remove abandoned stages, uploads that were never completed and, without PLACE, records of runs long ended.

    Never what a living run needs, nor a run that is held, nor the record that the next run of a job is compared with.
    """
    from tidemill.batch.jobs.gc import collect, duration
    from tidemill.batch.jobs.index import RunIndex

    found = collect(places or (), duration(older_than), RunIndex(), dry_run=dry_run)
    if json:
        emit_json(msgspec.to_builtins(found))
        return
    done = "would be removed" if dry_run else "removed"
    rows = [
        (one.kind, escape(one.where), describe_seconds(one.age), f"{one.bytes:,}", escape(one.kept or done))
        for one in found
    ]
    output().print(table("what", "where", "age", "bytes", "", numbers=("age", "bytes"), rows=rows))
