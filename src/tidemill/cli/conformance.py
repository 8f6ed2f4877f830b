"""`tidemill conformance`: does a server keep to the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tidemill.cli.console import emit_json, output, table

if TYPE_CHECKING:
    from tidemill.assurance.conformance import Report

__all__ = ["conformance"]

COLOURS = {"pass": "green", "fail": "bold red", "skipped": "dim", "observed": "cyan"}
SHOWN = 90


def conformance(
    url: Annotated[str, typer.Argument(metavar="URL", help="Any server's HTTP address, as http://127.0.0.1:8080.")],
    grpc: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Its HOST:PORT for gRPC; not asked if left out.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model to ask; the first of the repository index if left out.")
    ] = None,
    given: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="An inference request as JSON that the model answers; made from its metadata if left out.",
        ),
    ] = None,
    hostile: Annotated[
        bool, typer.Option("--hostile", help="Send huge shapes too, which have been seen to end a server's process.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JUnit XML for continuous integration.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the cases as JSON.")] = False,
) -> None:
    """Ask any server, clause by clause, whether it keeps to the Open Inference Protocol over REST and gRPC.

    Requests are small, and sent one after another. Exit code 1 if a required case fails, 2 if nobody answers.
    """
    from tidemill.assurance.conformance import Level, Outcome, as_json, as_junit, run

    report = run(url, grpc, model, given, hostile)
    if junit is not None:
        junit.write_bytes(as_junit(report))
    if json:
        emit_json(as_json(report))
    else:
        output().print(table("chapter", "case", "level", "outcome", "what was seen", rows=_rows(report)))
        required = report.count(Outcome.FAIL, Level.REQUIRED)
        verdict = "[green]conforms[/]" if report.passed else f"[bold red]{required} required cases fail[/]"
        counts = ", ".join(f"{report.count(outcome)} {outcome.value}" for outcome in Outcome)
        output().print(f"{verdict}: {escape(report.server)}, model {escape(report.model)}; {counts}")
        for r in report.results:
            if r.outcome is Outcome.FAIL:
                output().print(f"{r.chapter}: {escape(r.case.name)}: {escape(r.detail)}\n  {escape(r.case.clause)}")
    if not report.passed:
        raise typer.Exit(1)


def _rows(report: Report) -> Iterator[Sequence[str]]:
    """A row a case; a chapter of which every case was skipped for one reason is a single row."""
    for chapter, group in groupby(report.results, lambda r: r.chapter):
        results = list(group)
        if len({(r.outcome, r.detail) for r in results}) == 1 and results[0].outcome == "skipped":
            yield chapter, f"all {len(results)}", "", _coloured("skipped"), escape(results[0].detail[:SHOWN])
            continue
        for r in results:
            seen = escape(r.detail[:SHOWN])
            yield chapter, escape(r.case.name), r.case.level.value, _coloured(r.outcome), seen


def _coloured(outcome: str) -> str:
    return f"[{COLOURS[outcome]}]{outcome}[/]"
