"""`tidemill verify`: do all modes give the same answers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tidemill.cli.console import emit_json, errors, output, table

__all__ = ["verify"]


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The package.")],
    source: Annotated[
        str | None, typer.Option("--input", metavar="FILE", help="Table to take rows from; the samples if left out.")
    ] = None,
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Rows to send through each mode.")] = 2_000,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Send the same rows, good and bad, through every mode and compare values, statuses and error texts.

    A server is started for it on a free port of this machine. Exit code 1 on any difference.
    """
    from tidemill.assurance.verify import verify as run

    found = run(directory, source, rows)
    if json:
        emit_json({"agrees": found.agrees, **asdict(found)})
    else:
        shown = [
            (
                m.mode,
                f"{m.rows:,}",
                f"{m.equal:,}",
                f"{m.largest:g}",
                f"{m.statuses:,}",
                f"{m.texts:,}",
                f"{m.seconds:.2f}",
            )
            for m in found.modes
        ]
        columns = ("mode", "rows", "equal values", "largest difference", "equal statuses", "equal texts", "s")
        output().print(table(*columns, numbers=columns[1:], rows=shown))
        verdict = "[green]all modes agree[/]" if found.agrees else "[bold red]the modes differ[/]"
        output().print(
            f"{verdict}: {found.rows:,} rows from {escape(found.source)}, {found.bad:,} of them bad on purpose"
        )
        for mode in found.modes:
            if not mode.agrees:
                errors().print(f"{mode.mode}: {escape(mode.difference)}", soft_wrap=True)
    if not found.agrees:
        raise typer.Exit(1)
