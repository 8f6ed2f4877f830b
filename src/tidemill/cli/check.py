"""`tidemill check`: does the package keep its word."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tidemill.cli.console import emit_json, output, table

__all__ = ["check"]

_COLOURS = {"pass": "green", "fail": "bold red", "skip": "yellow"}


def check(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The package.")],
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Try a package on its samples and its limits, through the one prediction path.

    Exit code 1 if any check fails.
    """
    from tidemill.assurance.checks import run_checks

    found = run_checks(directory)
    failed = sum(c.verdict == "fail" for c in found)
    if json:
        emit_json({"ok": not failed, "checks": [asdict(c) for c in found]})
    else:
        rows = [
            (c.name, f"[{_COLOURS[c.verdict]}]{c.verdict}[/]", escape(c.figures), f"{c.seconds:.2f}") for c in found
        ]
        output().print(table("check", "verdict", "figures", "s", numbers=["s"], rows=rows))
        skipped = sum(c.verdict == "skip" for c in found)
        output().print(f"{len(found) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    if failed:
        raise typer.Exit(1)
