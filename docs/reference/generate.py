"""Writes the reference from the code: `model.schema.json` from the structs, `cli.md` from the commands' own help."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import typer.main
from click import Context
from typer.cli import get_docs_for_click

from tidemill.cli.app import app
from tidemill.model.manifest import Manifest

HERE = Path(__file__).parent


def pages() -> dict[str, str]:
    """File name → text of every page."""
    schema = msgspec.json.schema(Manifest)
    command = typer.main.get_command(app)
    cli = get_docs_for_click(obj=command, ctx=Context(command, info_name="tidemill"), name="tidemill")
    # Usage lines are forms, not commands that anyone could run.
    cli = cli.replace("```console", "```text")
    return {
        "model.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        "cli.md": cli.rstrip() + "\n",
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")
