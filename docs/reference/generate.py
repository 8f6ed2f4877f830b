"""Writes the reference from the code: schemas of the file formats from structs, `cli.md` from the commands' help."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import typer.main
from click import Context
from typer.cli import get_docs_for_click

from tidemill.batch.manifest import RunManifest
from tidemill.cli.app import app
from tidemill.model.manifest import Manifest
from tidemill.model.profile import TableProfile
from tidemill.realtime.options import ServeOptions

HERE = Path(__file__).parent
SCHEMAS = {
    "model.schema.json": Manifest,
    "profile.schema.json": TableProfile,
    "run-manifest.schema.json": RunManifest,
    "server.schema.json": ServeOptions,
}


def pages() -> dict[str, str]:
    """File name → text of every page."""
    command = typer.main.get_command(app)
    cli = get_docs_for_click(obj=command, ctx=Context(command, info_name="tidemill"), name="tidemill")
    # Usage lines are forms, not commands that anyone could run.
    cli = cli.replace("```console", "```text")
    schemas = {name: msgspec.json.schema(struct) for name, struct in SCHEMAS.items()}
    return {
        "cli.md": cli.rstrip() + "\n",
        **{name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()},
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")
