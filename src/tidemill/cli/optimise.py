"""`tidemill optimise`: smaller and faster forms of a package, measured, the best one written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape

from tidemill.cli.console import emit_json, errors, names, output, table
from tidemill.errors import ConfigError, NothingGained

if TYPE_CHECKING:
    from tidemill.optimise import Report
    from tidemill.optimise.options import Candidate, Spread

__all__ = ["optimise"]

_Names = list[str] | None
_COLOURS = {"offered": "green", "metric": "red", "no gain": "yellow"}


def optimise(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The package.")],
    evaluate: Annotated[str, typer.Option(metavar="DATA", help="Rows to measure on: Parquet, CSV, JSON lines.")],
    target: Annotated[str, typer.Option(metavar="COL", help="The column of DATA that holds the truth.")],
    metric: Annotated[str, typer.Option(metavar="M", help="accuracy, roc_auc, log_loss, rmse, mae or r2.")],
    max_drop: Annotated[float, typer.Option(metavar="D", help="How much worse the metric may become.")],
    quantise: Annotated[_Names, typer.Option(metavar="KINDS", help="static, fp16, dynamic.")] = None,
    prune: Annotated[_Names, typer.Option(metavar="RATIOS", help="Shares of units and trees to take out.")] = None,
    output_: Annotated[str | None, typer.Option("--output", metavar="NAME", help="Output that M is of.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR2", help="Write the best one as a package.")] = None,
    choose: Annotated[str | None, typer.Option(metavar="NAME", help="Write this one instead.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of DIR2; that of DIR and the form if left out.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the candidates as SVG.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the package at DIR2.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Quantise, prune and compile a package's model; offer what keeps the metric and is quicker or smaller.

    Exit code 4 if nothing does.
    """
    from tidemill.config import decode
    from tidemill.optimise import OptimiseOptions
    from tidemill.optimise import optimise as run

    given: dict[str, Any] = {
        "evaluate": evaluate,
        "target": target,
        "metric": metric,
        "max_drop": max_drop,
        "quantise": names(quantise),
        "prune": _ratios(prune),
        "output": output_,
        "out": None if out is None else str(out),
        "choose": choose,
        "version": version,
        "overwrite": overwrite,
    }
    if choose is not None and out is None:
        raise ConfigError("--choose says which form to write: say where with --out")
    options = decode(given, OptimiseOptions, "optimise")
    try:
        with errors().status("") as status:
            report = run(directory, options, lambda what: status.update(escape(what)))
    except NothingGained as error:
        if error.report is not None:
            _show(error.report, plot, json)  # type: ignore[arg-type]
        raise
    _show(report, plot, json)


def _ratios(values: list[str] | None) -> list[float]:
    found = []
    for text in names(values):
        try:
            found.append(float(text))
        except ValueError:
            raise ConfigError(f"--prune {text!r}: expected shares between 0 and 1, as 0.3 or 0.2,0.5") from None
    return found


def _show(report: Report, plot: Path | None, json: bool) -> None:
    if plot is not None:
        from tidemill.optimise.plot import svg

        plot.write_text(svg(report), encoding="utf-8")
    if json:
        emit_json(msgspec.to_builtins(report))
    else:
        _print(report, plot)


def _print(report: Report, plot: Path | None) -> None:
    console = output()
    before = report.parent
    speed, latency = f"{before.rows_per_second:,.0f}", (_ms(before.p50_ms), _ms(before.p99_ms))
    parent = ("as it is", f"{before.metric:.6g}", speed, "", *latency, "", f"{before.bytes:,}", "", "")
    rows = [parent, *(_row(one) for one in report.candidates)]
    titles = ("form", report.metric, "rows/s", "of it", "p50 ms", "p99 ms", "of it", "bytes", "of it", "verdict")
    numbers = titles[1:-1]
    console.print(table(*titles, numbers=numbers, rows=rows))
    for one in report.candidates:
        console.print(f"{one.name}: {escape(_told(one, report))}", soft_wrap=True)
    for name, why in report.unused.items():
        console.print(f"{name}: not tried: {escape(why)}", soft_wrap=True)
    for note in report.notes:
        console.print(f"  {escape(note)}", soft_wrap=True)
    console.print(
        f"{report.metric} on {report.rows:,} rows of {escape(report.data)}, {report.calibration_rows:,} others to "
        f"calibrate on; rows/s in calls of {report.call_rows:,}, latency of one row, {report.rounds} rounds; the "
        f"package differs from itself by up to {report.noise:.1%}; {escape(report.machine)}",
        soft_wrap=True,
    )
    if report.best is not None:
        console.print(f"[bold]best:[/] {escape(report.reason)}", soft_wrap=True)
    if report.written is not None:
        console.print(f"written to {escape(report.written)}; next: tidemill check {escape(report.written)}")
    if plot is not None:
        console.print(f"drawn in {escape(str(plot))}")


def _row(one: Candidate) -> tuple[str, ...]:
    figures = one.figures
    return (
        escape(one.name),
        f"{figures.metric:.6g}",
        f"{figures.rows_per_second:,.0f}",
        _spread(one.batch),
        _ms(figures.p50_ms),
        _ms(figures.p99_ms),
        _spread(one.single),
        f"{figures.bytes:,}",
        f"{one.size:.2f}x",
        f"[{_COLOURS[one.verdict]}]{one.verdict}[/]",
    )


def _told(one: Candidate, report: Report) -> str:
    words = [one.how]
    if not one.rows_independent:
        words.append("rows of a call depend on each other, so that calls are never merged")
    if one.verdict == "metric":
        words.append(f"refused: {report.metric} is worse by {one.drop:.4g}, and {report.max_drop:g} is allowed")
    elif one.verdict == "no gain":
        words.append("not offered: neither quicker nor smaller beyond the noise")
    words += [", ".join(one.gains)] if one.gains else []
    words += [f"but {', '.join(one.losses)}"] if one.losses else []
    return "; ".join([*words, *one.notes])


def _spread(spread: Spread) -> str:
    return f"{spread.middle:.2f}x ({spread.low:.2f}…{spread.high:.2f})"


def _ms(value: float) -> str:
    return f"{value:.3f}"
