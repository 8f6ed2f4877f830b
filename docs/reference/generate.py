"""Writes the reference from the code: schemas from structs, `cli.md` from the commands' help, `metrics.md`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import typer.main
from click import Context
from typer.cli import get_docs_for_click

from tidemill.batch.job import JobFile
from tidemill.batch.jobs.index import RunRecord
from tidemill.batch.manifest import RunManifest
from tidemill.cli.app import app
from tidemill.model.manifest import Manifest
from tidemill.model.profile import TableProfile
from tidemill.observability.counters import OUTCOMES
from tidemill.observability.families import FAMILIES, ROWS, SECONDS, Kind, Rule
from tidemill.realtime.options import ServeOptions

HERE = Path(__file__).parent
SCHEMAS = {
    "job.schema.json": JobFile,
    "model.schema.json": Manifest,
    "profile.schema.json": TableProfile,
    "run-manifest.schema.json": RunManifest,
    "run-record.schema.json": RunRecord,
    "server.schema.json": ServeOptions,
}


def pages() -> dict[str, str]:
    """File name → text of every page."""
    command = typer.main.get_command(app)
    cli = get_docs_for_click(obj=command, ctx=Context(command, info_name="tidemill"), name="tidemill")
    # Usage lines are forms, not commands that anyone could run.
    cli = cli.replace("```console", "```text")
    return {
        "metrics.md": metrics(),
        "cli.md": cli.rstrip() + "\n",
        **{name: schema(struct) for name, struct in SCHEMAS.items()},
    }


def schema(struct: type) -> str:
    """A struct's JSON Schema. Its patterns are those of ECMAScript, where `$` is what `\\Z` is in Python."""
    text = json.dumps(msgspec.json.schema(struct), indent=2, ensure_ascii=False) + "\n"
    return text.replace(r"\\Z", "$")


def metrics() -> str:
    """A table of every metric that Prometheus sees."""
    lines = [
        "# Metrics",
        "",
        "What `/metrics` of the management port has; [monitoring](../monitoring.md) tells what to do with it.",
        "A gauge is the sum over living processes, unless it says max or min.",
        "",
        "| metric | kind | labels | |",
        "|---|---|---|---|",
    ]
    for family in FAMILIES.values():
        if family.kind is not Kind.SUMS:
            labels = ", ".join(f"`{label}`" for label in family.labels)
            rule = "" if family.kind is not Kind.GAUGE or family.rule is Rule.SUM else f", {family.rule.value}"
            lines.append(f"| `{family.name}` | {family.kind.value}{rule} | {labels} | {family.help} |")
    for edges, unit in ((SECONDS, "s"), (ROWS, "rows")):
        bounds = ", ".join(f"{edge:g}" for edge in edges)
        lines += ["", f"Buckets ({unit}): {bounds}."]
    outcomes = ", ".join(f"`{name}`" for name in OUTCOMES)
    lines += ["", f"Outcomes: {outcomes}; they are the codes of [the errors](../python.md#errors)."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")
