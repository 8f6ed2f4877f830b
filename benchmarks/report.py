"""REPORT.md and its chart, from the results of the parts that were run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import against, batch, engines, grpc_calls, peers_report, plot, serving, size
from benchmarks.tables import met, spread, table, three

GOAL_ECHO = 0.55
GOAL_GRANIAN = 1.3
GOAL_P50 = 1.6
GOAL_P99_US = 5_000
GOAL_BATCH = 0.90
GOAL_MB = 1000.0
# Above this share of the cores used by others, figures are not to be trusted.
NOISY = 0.05
LABELS = {
    "raw_echo": "raw echo",
    "granian": "Granian echo",
    "tidemill": "tidemill serve",
    "interpreted": "the same, interpreted",
}
CHART = "requests.svg"
RATIOS = (
    ("per_second", "raw_echo", "requests/s: raw echo"),
    ("per_second", "granian", "requests/s: Granian echo"),
    ("p50", "raw_echo", "p50: raw echo"),
    ("p99", "raw_echo", "p99: raw echo"),
    ("server_us", "raw_echo", "CPU a request: raw echo"),
)
CLOSED_HEADER = (
    *("connections", "server", "requests/s", "p50 µs", "p99 µs", "server CPU µs a request"),
    *("server busy", "client busy", "errors"),
)
OPEN_HEADER = (
    *("requests/s", "of peak", "server", "answered/s", "p50 µs", "p90 µs", "p99 µs", "p99.9 µs", "max µs"),
    *("client late µs", "errors"),
)
BATCH_HEADER = ("program", "rows/s", "seconds", "CPU seconds", "peak memory MB", "processes")


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What one command measured, and on what machine. A part that was not run is None."""

    command: str
    machine: dict[str, Any]
    http: serving.HttpResult | None = None
    grpc: grpc_calls.GrpcResult | None = None
    peers: against.PeersResult | None = None
    batch: batch.BatchResult | None = None
    engines: engines.EnginesResult | None = None
    size: size.Size | None = None


def write(results: Results, folder: Path) -> Path:
    """Write the report, and its chart if there is one, into `folder`; the report's path."""
    sections = [_head(results)]
    if results.http is not None:
        (folder / CHART).write_text(_chart(results.http), encoding="utf-8")
        sections.append(_http(results.http))
    if results.grpc is not None:
        sections.append(grpc_calls.section(results.grpc))
    if results.peers is not None:
        sections.append(peers_report.section(results.peers))
    if results.batch is not None:
        sections.append(_batch(results.batch))
    if results.engines is not None:
        sections.append(engines.section(results.engines))
    if results.size is not None:
        sections.append(_size(results.size))
    path = folder / "REPORT.md"
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def _head(results: Results) -> str:
    machine = results.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        "# Benchmarks",
        f"Written by `{results.command}` on {machine['date']}, not by hand. Ratios are of figures from this one run.",
        table(
            ("", ""),
            [
                ("CPU", f"{machine['cpu']}, {machine['cores']} cores"),
                ("memory", machine["memory"]),
                ("system", machine["system"]),
                ("Python", machine["python"]),
                ("packages", packages),
                ("commit", machine["commit"]),
                ("load average before", str(machine["load"])),
            ],
        ),
        "## Goals",
        table(("figure", "measured", "goal", ""), _goals(results)),
    ]
    noise = max([x.others for x in _measured(results)], default=0.0)
    if noise > NOISY:
        lines.append(
            f"**The machine was not quiet:** other programs used up to {noise:.0%} of its cores while it was measured. "
            "Programs that wait for a core are alike: these ratios are not to be trusted, CPU time a request rather is."
        )
    return "\n\n".join(lines)


def _measured(results: Results) -> Iterable[Any]:
    loads = [*(results.http.loads if results.http else ()), *(results.grpc.loads if results.grpc else ())]
    scores = [*(results.batch.scores if results.batch else ()), *(results.engines.scores if results.engines else ())]
    return [*loads, *scores]


def _goals(results: Results) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    if (http := results.http) is not None:
        errors = sum(x.errors for x in http.loads)
        if 64 in http.settings.connections:
            echo = statistics.median(http.ratios("per_second", "raw_echo", 64))
            granian = statistics.median(http.ratios("per_second", "granian", 64))
            rows += [
                (
                    "requests/s over the raw echo's, 64 connections",
                    f"{echo:.2f}",
                    f"≥ {GOAL_ECHO}",
                    met(echo >= GOAL_ECHO),
                ),
                (
                    "requests/s over Granian's echo, 64 connections",
                    f"{granian:.2f}",
                    f"≥ {GOAL_GRANIAN}",
                    met(granian >= GOAL_GRANIAN),
                ),
            ]
            p99 = statistics.median(x.p99 for x in http.of("tidemill", 64))
            rows.append(("p99, 64 connections", f"{p99:,.0f} µs", f"≤ {GOAL_P99_US:,} µs", met(p99 <= GOAL_P99_US)))
        if 1 in http.settings.connections:
            p50 = statistics.median(http.ratios("p50", "raw_echo", 1))
            rows.append(("p50 over the raw echo's, 1 connection", f"{p50:.2f}", f"≤ {GOAL_P50}", met(p50 <= GOAL_P50)))
        rows.append(("requests without a 2xx answer", f"{errors:,}", "0", met(errors == 0)))
    if results.grpc is not None:
        rows += grpc_calls.goals(results.grpc)
    if results.peers is not None:
        rows += peers_report.goals(results.peers)
    if (scored := results.batch) is not None:
        ratio = statistics.median(scored.ratios("rows_per_second"))
        peak = max(x.peak_mb for x in scored.of("tidemill"))
        rows += [
            ("rows/s over the hand-written loop's", f"{ratio:.2f}", f"≥ {GOAL_BATCH:.2f}", met(ratio >= GOAL_BATCH)),
            ("peak memory of `tidemill score`", f"{peak:,.0f} MB", f"≤ {GOAL_MB:,.0f} MB", met(peak <= GOAL_MB)),
            ("outputs equal to the loop's, all rows", "yes" if scored.equal else "no", "yes", met(scored.equal)),
        ]
    if results.engines is not None:
        rows += engines.goals(results.engines)
    if (installed := results.size) is not None:
        seconds = statistics.median(installed.seconds)
        rows += [
            (
                "core install",
                f"{installed.megabytes:.0f} MB",
                f"< {size.LIMIT_MB} MB",
                met(installed.megabytes < size.LIMIT_MB),
            ),
            ("import of `tidemill`", f"{seconds:.3f} s", f"< {size.LIMIT_S} s", met(seconds < size.LIMIT_S)),
        ]
    return rows


def _http(result: serving.HttpResult) -> str:
    settings = result.settings
    rows = []
    for connections in settings.connections:
        for key, label in _present(result):
            loads = result.of(key, connections)
            rows.append(
                (
                    str(connections),
                    label,
                    spread([x.per_second for x in loads]),
                    spread([x.p50 for x in loads]),
                    spread([x.p99 for x in loads]),
                    spread([x.server_us for x in loads], ".1f"),
                    f"{statistics.median(x.server_busy for x in loads):.0%}",
                    f"{statistics.median(x.client_busy for x in loads):.0%}",
                    f"{sum(x.errors for x in loads):,}",
                )
            )
    ratios = [
        (str(n), *(spread(result.ratios(figure, other, n), ".2f") for figure, other, _ in RATIOS))
        for n in settings.connections
    ]
    how = "its hot path compiled, as in a published wheel (`make compiled`)" if result.compiled else "interpreted"
    granian = f"Granian {result.granian}, one worker, uvloop: the best of st and mt with asyncio and rust tasks."
    return f"""## Real time: Open Inference Protocol over JSON

A request is one row of 30 floats ({result.request_bytes} bytes of JSON, {serving.BODIES} different ones in turn), the
model 100 boosted trees on ONNX Runtime; {result.cores}. Tidemill runs {how}. Both
echoes read the same request and answer it unchanged.
Before the timing every server was asked each of the requests: the echoes had to give them back, Tidemill had to give
ONNX Runtime's own answer, bit for bit. {granian} Load by wrk, {settings.rounds} rounds of {settings.seconds} s, the
servers in turn in each. Figures are the median of the rounds, lowest to highest in parentheses.

![Requests per second by connections]({CHART})

**Tidemill's figure over another's**, round by round

{table(("connections", *(name for _, _, name in RATIOS)), ratios)}

**Closed loop.** Each connection asks again as soon as it is answered. A client that is near 100 % busy is the limit
itself: the server could do more, and its CPU time a request says how much.

{table(CLOSED_HEADER, rows)}

{_open(result)}

Resident memory at the end: {", ".join(f"{LABELS[k]} {v:.0f} MB" for k, v in result.rss_mb.items())}.
This part alone: `python -m benchmarks http` (wrk comes with `make setup-services`)."""


def _present(result: serving.HttpResult) -> list[tuple[str, str]]:
    measured = {load.server for load in result.loads}
    return [(key, label) for key, label in LABELS.items() if key in measured]


def _open(result: serving.HttpResult) -> str:
    peak = max(statistics.median(x.per_second for x in result.of("tidemill", n)) for n in result.settings.connections)
    rows = [
        (
            f"{run.load.rate:,.0f}",
            f"{run.load.rate / peak:.0%}",
            LABELS[run.server],
            f"{run.load.per_second:,.0f}",
            *(f"{x:,.0f}" for x in (run.load.p50, run.load.p90, run.load.p99, run.load.p999, run.load.max)),
            f"{run.load.lag:,.0f}",
            f"{run.load.errors:,}",
        )
        for run in result.open_runs
    ]
    limited = any(run.load.rate < 0.99 * run.share * peak for run in result.open_runs)
    most = f"{serving.CLIENT_SHARE:.0%} of what the client can do on its core ({result.open_limit:,.0f} requests/s)"
    end = f" Rates end at {most}." if limited else ""
    return f"""**Open loop.** Poisson arrivals at shares of Tidemill's closed-loop peak ({peak:,.0f} requests/s), over
{serving.OPEN_CONNECTIONS} connections, each latency counted from the moment its request was planned. "Client late" is
how late the client itself sent, 99th percentile; it is part of the latencies.{end}

{table(OPEN_HEADER, rows)}"""


def _batch(result: batch.BatchResult) -> str:
    settings = result.settings
    rows = []
    for program, label in (("loop", "hand-written loop"), ("tidemill", "`tidemill score`")):
        scores = result.of(program)
        rows.append(
            (
                label,
                spread([x.rows_per_second for x in scores]),
                spread([x.seconds for x in scores], ".1f"),
                spread([x.cpu_seconds for x in scores], ".1f"),
                f"{max(x.peak_mb for x in scores):,.0f}",
                str(max(x.processes for x in scores)),
            )
        )
    columns = ", ".join(f"`{name}`" for name in result.columns)
    return f"""## Batch: Parquet to Parquet

{settings.rows:,} rows of 30 float32 ({result.input_mb:,.0f} MB of Parquet, in the page cache), the same model,
{result.cores}. The rows are synthetic: drawn from the breast cancer data with noise, fixed seed. The loop
(`benchmarks/batch_handwritten.py`) is PyArrow and ONNX Runtime written for speed, without ledger, validation, dead
letters or resume. Each run is a whole process, start and commit included; {settings.rounds} rounds in turn, median
(lowest to highest). Rows were counted after every run; all outputs ({columns}) were compared once and were
{"equal" if result.equal else "**not equal**"}.

{table(BATCH_HEADER, rows)}

`tidemill score` over the loop, round by round: rows/s **{spread(result.ratios("rows_per_second"), ".2f")}**,
CPU seconds {spread(result.ratios("cpu_seconds"), ".2f")}.
This part alone: `python -m benchmarks batch` (`--rows N` for fewer)."""


def _size(found: size.Size) -> str:
    largest = sorted(found.folders.items(), key=lambda item: -item[1])[:5]
    parts = ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in largest)
    return f"""## Size

A core install from the locked requirements takes {found.megabytes:.0f} MB on disk without byte code ({parts}).
`import tidemill` in a new process: {spread(found.seconds, ".3f")} s, {len(found.seconds)} times; with every public
name loaded, ONNX Runtime and PyArrow with them: {spread(found.names_seconds, ".3f")} s.
This part alone: `python -m benchmarks size`."""


def _chart(result: serving.HttpResult) -> str:
    series = [
        plot.Series(label, [three([x.per_second for x in result.of(key, n)]) for n in result.settings.connections])
        for key, label in _present(result)
    ]
    groups = [str(n) for n in result.settings.connections]
    return plot.bars("Requests per second, one core", groups, "connections", series)
