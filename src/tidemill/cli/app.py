"""The command `tidemill`: its commands, and the border where errors become a message and an exit code."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from tidemill import __version__
from tidemill.cli.check import check
from tidemill.cli.conformance import conformance
from tidemill.cli.console import errors
from tidemill.cli.export import export
from tidemill.cli.gc import gc
from tidemill.cli.inspect import inspect
from tidemill.cli.job import job
from tidemill.cli.keys import keys
from tidemill.cli.optimise import optimise
from tidemill.cli.package import package
from tidemill.cli.runs import run
from tidemill.cli.score import score
from tidemill.cli.serve import serve
from tidemill.cli.verify import verify
from tidemill.errors import TidemillError

__all__ = ["app", "main"]

SECONDS_FOR_THREADS = 3.0


class _Group(TyperGroup):
    """Turns what Tidemill or the system refuses into one message on stderr; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (TidemillError, OSError) as error:
            # A pipe that was closed by its reader is Typer's to handle.
            if ctx.params["debug"] or isinstance(error, BrokenPipeError):
                raise
            errors().print(f"[bold red]error:[/] {escape(_told(error))}", soft_wrap=True)
            raise typer.Exit(getattr(error, "exit_code", 1)) from None


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error)


app = typer.Typer(
    name="tidemill",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Package a model once. Serve it in milliseconds or score it by the tens of millions: the same prediction.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 error budget exceeded, 4 nothing gained, 5 held.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidemill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What stands before the command's name."""


for command in (package, inspect, check, verify, serve, conformance, score, optimise, gc):
    app.command()(command)
app.add_typer(job, name="job")
app.add_typer(run, name="run")
app.add_typer(keys, name="keys")
app.add_typer(export, name="export")


def main() -> None:
    """The program `tidemill`."""
    _open_standard_streams()
    try:
        app()
    except SystemExit as end:
        number = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        _leave_threads(number)
        raise


def _open_standard_streams() -> None:
    """One that was closed by whoever began this goes nowhere: else the next file that is opened would take its number,
    and what is printed would go into that.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(nowhere, mode))  # noqa: SIM115 - as long as the process lives


def _leave_threads(number: int) -> None:
    """End the process though a model's own threads, which are no daemons, still run a while from now."""
    main_thread = threading.main_thread()
    if any(t is not main_thread and not t.daemon for t in threading.enumerate()):
        sys.stdout.flush()
        timer = threading.Timer(SECONDS_FOR_THREADS, os._exit, [number])
        timer.daemon = True
        timer.start()
    atexit.register(_leave_daemons, number)


def _leave_daemons(number: int) -> None:
    """End without taking the interpreter down under a thread that still loads or runs a model: code of a library that
    then wants the interpreter's lock back aborts the process.
    """
    if threading.active_count() > 1:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(number)
