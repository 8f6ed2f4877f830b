"""`tidemill package`: a model file becomes a package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tidemill.cli.console import emit_json, names, output, pairs

if TYPE_CHECKING:
    from tidemill.packaging import PackageReport

__all__ = ["package"]

_Names = list[str] | None


def package(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="ONNX, skops, LightGBM, XGBoost or Python file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The package to write.")],
    like: Annotated[str | None, typer.Option(metavar="TABLE", help="Real rows to learn the signature from.")] = None,
    drop: Annotated[_Names, typer.Option(metavar="COLS", help="Columns of --like that are no features.")] = None,
    columns: Annotated[_Names, typer.Option(metavar="COLS", help="Columns that fill a 2-D input, in order.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; that of SOURCE if left out.")] = None,
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1",
    kind: Annotated[
        str | None, typer.Option(help="onnx, sklearn, lightgbm, xgboost or python; seen from SOURCE if left out.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, regression, ranking, embedding, detection or other.")
    ] = None,
    description: Annotated[str, typer.Option(help="One sentence for people.")] = "",
    entity_key: Annotated[_Names, typer.Option(metavar="COLS", help="Columns that identify a row.")] = None,
    transform: Annotated[
        str | None, typer.Option(metavar="FILE", help="Python file: before(rows), after(rows).")
    ] = None,
    include: Annotated[_Names, typer.Option(metavar="FILES", help="Further files that a Python model reads.")] = None,
    trusted: Annotated[_Names, typer.Option(metavar="TYPES", help="Types that skops may load.")] = None,
    nullable: Annotated[_Names, typer.Option(metavar="COLS", help="Columns that may be missing.")] = None,
    fill: Annotated[_Names, typer.Option(metavar="NAME=VALUE", help="What the model sees for a missing cell.")] = None,
    bound: Annotated[_Names, typer.Option(metavar="NAME=MIN:MAX", help="Limits of a column, inclusive.")] = None,
    learn_bounds: Annotated[bool, typer.Option("--learn-bounds", help="Take the limits from --like.")] = False,
    max_categories: Annotated[int, typer.Option(help="Most different texts that count as categories.")] = 100,
    labels: Annotated[_Names, typer.Option(metavar="NAMES", help="Names of the classes, in order.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Score from which a row is decided as the class.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Add the k best classes of each row.")] = None,
    tolerance: Annotated[_Names, typer.Option(metavar="OUTPUT=X", help="Difference that modes may show.")] = None,
    rows_independent: Annotated[
        bool | None, typer.Option("--rows-independent/--rows-dependent", help="Measured if left out.")
    ] = None,
    not_repeatable: Annotated[bool, typer.Option("--not-repeatable", help="A call must never be made twice.")] = False,
    p99_ms: Annotated[float | None, typer.Option(help="The latency that 99 % of requests must meet.")] = None,
    timeout_ms: Annotated[float | None, typer.Option(help="Deadline of a request that brings none.")] = None,
    provider: Annotated[_Names, typer.Option(metavar="NAMES", help="ONNX execution providers, best first.")] = None,
    threads: Annotated[int, typer.Option(help="Threads inside one model call.")] = 1,
    samples: Annotated[int, typer.Option(help="Rows of --like to keep as samples.")] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the package at DIR.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Make a package of a model file: converted, compared with the original on real rows, sealed with digests."""
    from tidemill.config import decode
    from tidemill.packaging import PackageOptions, package_model, parse_bound, parse_fill

    given = {
        "kind": kind,
        "name": name,
        "version": version,
        "task": task,
        "description": description,
        "like": like,
        "drop": names(drop),
        "columns": names(columns),
        "entity_key": names(entity_key),
        "transform": transform,
        "include": names(include),
        "trusted": names(trusted),
        "nullable": names(nullable),
        "bounds": dict(parse_bound(text) for text in bound or ()),
        "learn_bounds": learn_bounds,
        "fill": dict(parse_fill(text) for text in fill or ()),
        "max_categories": max_categories,
        "labels": names(labels),
        "threshold": threshold,
        "top_k": top_k,
        "tolerance": pairs("--tolerance", tolerance, "score=1e-6"),
        "rows_independent": rows_independent,
        "repeatable": not not_repeatable,
        "p99_ms": p99_ms,
        "timeout_ms": timeout_ms,
        "threads": threads,
        "samples": samples,
        "overwrite": overwrite,
    }
    if provider:
        given["providers"] = names(provider)
    report = package_model(source, out, decode(given, PackageOptions, "package"))
    if json:
        emit_json(_document(report))
    else:
        _print(report, out)


def _document(report: PackageReport) -> dict[str, object]:
    return {
        "name": report.package.name,
        "version": report.package.version,
        "directory": str(report.package.directory),
        "notes": report.notes,
        "agreement": report.agreement,
        "invariance": report.invariance,
    }


def _print(report: PackageReport, out: Path) -> None:
    console = output()
    manifest = report.package.manifest
    runs = f"{manifest.runtime.name} ({manifest.runtime.artifact})"
    console.print(f"[bold]{escape(report.package.name)}[/] version {report.package.version}, runs on {escape(runs)}")
    for note in report.notes:
        console.print(f"  {escape(note)}")
    # A command is copied: it must not be broken by the width of the terminal.
    console.print(f"written to {escape(str(out))}; next: tidemill check {escape(str(out))}", soft_wrap=True)
