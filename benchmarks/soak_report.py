"""The report of the soak: what was sent and what became of it, and the memory over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.plot import Line, lines
from benchmarks.soak import MOST_GROWTH, SHARE, Soaked
from benchmarks.tables import met, table

__all__ = ["write"]

PLOT = "soak.svg"
TEXT = """# Soak

Written by `{command}` on {machine[date]}; commit {machine[commit]}. {machine[cpu]}, {machine[cores]} cores,
{machine[memory]}; {machine[system]}; Python {machine[python]}; {packages}. {busy}

Clients ask in HTTP/1.1 (alone and in pipelines, JSON, gzip, binary, chunked), HTTP/2 and gRPC for random rows of random
models, {share:.0%} of what they get answered when they ask without pause, and look at every value of every answer;
some leave before it, cancel, or send nonsense. Meanwhile versions of a model are exchanged and another one comes and
goes, by requests. An exchange is one request or one pipeline; memory is the sum of PSS of all processes of the server,
once a second, without the interpreter and shared libraries: what is a process's share of these moves with whatever else
the machine runs.

{load}

{outcomes}

The server's own count (the last column) has some of the requests whose client left and not all: of some it saw nothing.
It must lie between all that were sent and those without them.

![Memory over time]({plot})

{memory}

{goals}
"""


def write(found: list[Soaked], command: str, machine: dict[str, Any], folder: Path) -> Path:
    """`SOAK.md` and its plot in `folder`."""
    (folder / PLOT).write_text(_plot(found), encoding="utf-8")
    shares = ", ".join(f"{one.others:.0%} ({one.name})" for one in found)
    text = TEXT.format(
        command=command,
        machine=machine,
        packages=", ".join(f"{name} {machine['packages'][name]}" for name in ("tidemill", "uvloop", "onnxruntime")),
        busy=f"Other programs took {shares} of the machine's cores meanwhile.",
        share=SHARE,
        load=_load(found),
        outcomes=_outcomes(found),
        plot=PLOT,
        memory=_memory(found),
        goals=_goals(found),
    )
    path = folder / "SOAK.md"
    path.write_text(text, encoding="utf-8")
    return path


def _load(found: list[Soaked]) -> str:
    header = ("server", "minutes", "without pause, exchanges/s", "server's CPU then", "asked for", "had", "changes")
    rows = [
        (
            one.name,
            f"{one.seconds / 60:g}",
            f"{one.capacity:,.0f}",
            f"{one.server_busy:.2f} cores",
            f"{SHARE * one.capacity:,.0f}/s",
            f"{one.rate:,.0f}/s",
            f"{one.changes:,}",
        )
        for one in found
    ]
    return table(header, rows)


def _outcomes(found: list[Soaked]) -> str:
    header = (
        "server",
        "requests sent",
        "answered rightly",
        "client left",
        "failed",
        "no outcome",
        "counted by the server",
    )
    rows = [
        (
            one.name,
            *(f"{sum(counts.values()):,}" for counts in (one.sent, one.answered, one.left, one.failed)),
            f"{one.missing:,}",
            f"{sum(one.counted.values()):,}: " + ", ".join(f"{n:,} {what}" for what, n in sorted(one.counted.items())),
        )
        for one in found
    ]
    kinds = sorted({kind for one in found for kind in one.sent})
    by_kind = [(kind, *(f"{one.sent.get(kind, 0):,}" for one in found)) for kind in kinds]
    return table(header, rows) + "\n\n" + table(("sent", *(one.name for one in found)), by_kind)


def _memory(found: list[Soaked]) -> str:
    header = ("server", "processes", "MB at the end", "MB a minute", "open files, first and last")
    rows = [
        (one.name, str(one.processes), f"{one.samples[-1][1]:.0f}", f"{one.growth:+.2f}", "{} {}".format(*one.files))
        for one in found
    ]
    rows += [
        (f"{one.name}, with a leak planted", "", f"{one.leak.samples[-1][1]:.0f}", f"{one.leak.found:+.2f}", "")
        for one in found
        if one.leak is not None
    ]
    warm = found[0].warm_up / 60
    note = (
        f"MB a minute is the median slope between all pairs of samples (Theil and Sen), from minute {warm:.1f} on. "
        "The planted leak is a model swapped in at the end, under the same load, that keeps so much of what it gets: "
        + ", ".join(f"{one.leak.planted:g} MB a minute" for one in found if one.leak is not None)
        + "."
    )
    return table(header, rows) + "\n\n" + note


def _goals(found: list[Soaked]) -> str:
    rows = []
    for one in found:
        failed = sum(one.failed.values())
        others = [fault for fault in one.faults if "memory" not in fault and "planted" not in fault]
        rows += [
            (
                f"{one.name}: requests failed or without an outcome, errors logged",
                "none",
                str(failed + one.missing + len(one.errors_logged)),
                met(not others),
            ),
            (
                f"{one.name}: growth after warm-up",
                f"< {MOST_GROWTH:g} MB a minute",
                f"{one.growth:+.2f}",
                met(one.growth < MOST_GROWTH),
            ),
        ]
        if one.leak is not None:
            rows.append(
                (
                    f"{one.name}: the planted leak is found",
                    f">= {MOST_GROWTH:g} MB a minute",
                    f"{one.leak.found:+.2f}",
                    met(one.leak.found >= MOST_GROWTH),
                )
            )
    told = [f"- {one.name}: {failure}" for one in found for failure in (*one.failures[:10], *one.errors_logged[:10])]
    return "\n\n".join([table(("goal", "wanted", "found", ""), rows), *(["\n".join(told)] if told else [])])


def _plot(found: list[Soaked]) -> str:
    drawn = [Line(one.name, [(at / 60, size) for at, size in one.samples]) for one in found]
    drawn += [
        Line("a leak planted", [(at / 60, size) for at, size in one.leak.samples])
        for one in found
        if one.leak is not None
    ]
    return lines("Memory under load and changes: sum of PSS, MB", "minutes", drawn)
