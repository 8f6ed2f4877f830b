"""`tidemill keys`: API keys for a server that asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.console import Json, emit_json, errors, output, table

__all__ = ["keys"]

keys = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke the API keys of a server (`tidemill serve --keys FILE`), which sees the changes.",
)

File = Annotated[Path, typer.Option("--file", metavar="FILE", help="The keys file.")]
FILE = Path("keys.toml")


@keys.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: in logs, metrics and rate limits.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="infer, read or admin, of some models as infer:NAME or infer:PREFIX*."),
    ] = None,
    file: File = FILE,
) -> None:
    """Make a key and print it, this once: the file keeps only its hash. Without a scope it is for all inference."""
    from tidemill.realtime.security.keys import create_key

    key = create_key(file, name, scope or ["infer"])
    errors().print(f"the key of {name}, which is not shown again; {file} holds its hash:", markup=False)
    output().print(key, markup=False, highlight=False, soft_wrap=True)


@keys.command("list")
def list_(file: File = FILE, json: Json = False) -> None:
    """List the keys, those that were revoked too; never the keys themselves."""
    from tidemill.realtime.security.keys import read_keys

    found = read_keys(file).by_id
    if json:
        fields = ("name", "scopes", "created", "revoked")
        emit_json([{"id": id_, **{field: getattr(key, field) for field in fields}} for id_, key in found.items()])
        return
    rows = [
        (id_, key.name, " ".join(key.scopes), f"{key.created:%F %T}", f"{key.revoked:%F %T}" if key.revoked else "")
        for id_, key in found.items()
    ]
    output().print(table("id", "name", "scopes", "created", "revoked", rows=rows))


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's name or ID.")],
    file: File = FILE,
) -> None:
    """Revoke a key: servers refuse it within about a second."""
    from tidemill.realtime.security.keys import revoke_keys

    revoke_keys(file, name)
    errors().print(f"revoked: {name}", markup=False)
