"""What the commands share: where text goes, JSON for machines, plain tables, and lists in one option."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from tidemill.errors import ConfigError

__all__ = ["Json", "emit_json", "errors", "names", "only_results", "output", "pairs", "table", "text_of"]

Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
# A pipe has no width; rows that wrap at 80 cannot be read by grep.
PIPE_WIDTH = 200


def output() -> Console:
    """Standard output: results only, so that it can be piped."""
    return _console(stderr=False)


@contextmanager
def only_results() -> Iterator[None]:
    """What is printed meanwhile, as by a model's own code, goes to standard error: whoever reads the results of a
    command finds nothing else before them.
    """
    with redirect_stdout(sys.stderr):
        kept = os.dup(1)
        try:
            os.dup2(2, 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def errors() -> Console:
    """Standard error: progress and what went wrong."""
    return _console(stderr=True)


def emit_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str).decode())


def table(*columns: str, numbers: Sequence[str] = (), rows: Iterable[Sequence[str]] = ()) -> Table:
    """A table without vertical lines; the columns named in `numbers` are set flush right."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def names(values: Sequence[str] | None) -> tuple[str, ...]:
    """An option that may be repeated and holds names separated by commas, as one tuple."""
    return tuple(name.strip() for value in values or () for name in value.split(",") if name.strip())


def pairs(flag: str, values: Sequence[str] | None, example: str) -> dict[str, float]:
    """NAME=NUMBER options as a dict. Raises ConfigError naming the flag, with an example of it."""
    found: dict[str, float] = {}
    for value in values or ():
        name, equals, number = value.rpartition("=")
        try:
            if not (name and equals):
                raise ValueError
            found[name] = float(number)
        except ValueError:
            raise ConfigError(f"{flag} {value!r}: expected NAME=NUMBER, as {example}") from None
    return found


def text_of(value: str) -> str:
    """A text as a TOML value: as it stands, `2026-11-24` would be a date."""
    return orjson.dumps(value).decode() if value.isprintable() else value


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)
