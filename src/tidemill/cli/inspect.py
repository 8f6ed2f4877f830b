"""`tidemill inspect`: what a package says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tidemill.cli.console import Json, emit_json, output, table

__all__ = ["inspect"]

SHOWN_CATEGORIES = 6


def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The package.")],
    json: Json = False,
) -> None:
    """Show a package's signature, runtime, origin and files; every file's digest is checked."""
    from tidemill.model.package import open_package
    from tidemill.packaging import describe

    found = describe(open_package(directory))
    if json:
        emit_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    console = output()
    console.print(f"[bold]{escape(found['name'])}[/] version {escape(found['version'])}, {found['task']}")
    if found["description"]:
        console.print(escape(found["description"]))
    inputs = [row for one in found["inputs"] for row in _input(one)]
    console.print(table("input", "datatype", "shape", "may be", rows=inputs))
    console.print(table("output", "datatype", "shape", "is", rows=[_output(one) for one in found["outputs"]]))
    for name, value in _facts(found):
        console.print(f"{name:<12} {escape(value)}", soft_wrap=True)


def _input(one: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    first = (escape(one["name"]), one["datatype"], str(one["shape"]).replace("[", r"\["), escape(_allowed(one)))
    columns = [(f"  {escape(c['name'])}", "", "", escape(_allowed(c))) for c in one.get("columns", ())]
    return [first, *columns]


def _allowed(one: dict[str, Any]) -> str:
    """The rules of one input or column, in a few words."""
    words = []
    low, high = one.get("minimum"), one.get("maximum")
    if low is not None or high is not None:
        words.append(f"{'' if low is None else f'{low:g}'} … {'' if high is None else f'{high:g}'}".strip())
    categories = one.get("categories", ())
    if categories:
        more = len(categories) - SHOWN_CATEGORIES
        words.append(", ".join(map(str, categories[:SHOWN_CATEGORIES])) + (f" and {more} more" if more > 0 else ""))
    if one.get("nullable"):
        words.append("missing")
    if one.get("fill") is not None:
        words.append(f"(then {one['fill']!r})")
    return ", ".join(words) or ("" if one.get("columns") else "any")


def _output(one: dict[str, Any]) -> tuple[str, str, str, str]:
    words = []
    if one.get("labels"):
        words.append("/".join(one["labels"]))
    if one.get("from"):
        words.append(f"from {one['from']}")
    if one.get("threshold") is not None:
        words.append(f"at {one['threshold']:g} and over")
    if one.get("top_k"):
        words.append(f"the best {one['top_k']}")
    if one["datatype"].startswith("FP"):
        words.append(f"equal to {one['tolerance']:g}" if one.get("tolerance") else "bit-equal")
    return escape(one["name"]), one["datatype"], str(one["shape"]).replace("[", r"\["), escape(", ".join(words))


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    runtime = found["runtime"]
    facts = [
        ("runtime", f"{runtime['version']} ({runtime['name']}: {runtime['artifact']})"),
        ("fingerprint", found["fingerprint"]),
        ("slo", f"p99 {found['slo']['p99_ms']:g} ms, deadline {found['slo']['timeout_ms']:g} ms"),
        ("samples", f"{found['samples']} rows"),
        ("rows", "independent" if found["rows_independent"] else "of one call depend on each other"),
    ]
    if not found["repeatable"]:
        facts.append(("calls", "may not be repeated"))
    if found["entity_key"]:
        facts.append(("entity key", ", ".join(found["entity_key"])))
    if found["requirements"]:
        facts.append(("requires", ", ".join(found["requirements"])))
    if found["transform"]:
        facts.append(("transform", found["transform"]))
    if found["origin"]:
        origin = found["origin"]
        tools = ", ".join(f"{name} {version}" for name, version in origin.get("tools", {}).items())
        facts.append(("origin", f"{origin['kind']} file {origin['file']}" + (f", by {tools}" if tools else "")))
        facts += [("", note) for note in origin.get("notes", ())]
    facts += _optimised(found["optimised"]) if found["optimised"] else []
    facts += [("file", f"{f['name']}, {f['bytes']:,} bytes, SHA-256 {f['sha256'][:12]}…") for f in found["files"]]
    return facts


def _optimised(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What was done to the parent, and what both were measured to do."""
    before, after = found["before"], found["after"]
    apart = ", ".join(f"{name} {value:.2g}" for name, value in found.get("differences", {}).items())
    return [
        ("optimised", f"{found['how']}; of version {found['parent_version']}, fingerprint {found['parent'][:12]}…"),
        ("", f"{found['metric']} {_was(before, after, 'metric', '.6g')} on {found['rows']:,} rows of {found['data']}"),
        ("", f"rows/s {_was(before, after, 'rows_per_second', ',.0f')} in calls of {found['call_rows']:,}"),
        ("", f"ms of one row, p50 {_was(before, after, 'p50_ms', '.3f')}, p99 {_was(before, after, 'p99_ms', '.3f')}"),
        ("", f"bytes {_was(before, after, 'bytes', ',')}; measured on {found['machine']}"),
        ("", f"greatest differences between the two: {apart or 'none'}"),
    ]


def _was(before: dict[str, Any], after: dict[str, Any], name: str, form: str) -> str:
    return f"{after[name]:{form}} (was {before[name]:{form}})"
