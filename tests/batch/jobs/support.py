"""What the tests of jobs share: job files, the commands, and a run that dawdles."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.support import tidemill as run_command

DAWDLE = """
import sys, time
from tidemill.batch import plan
plan.SHARD_ROWS = 1000
from tidemill.batch.watch import Watch
note, seconds = Watch.note, float(sys.argv.pop(1))
def slow_note(self, rows, errors):
    time.sleep(seconds)
    note(self, rows, errors)
Watch.note = slow_note
from tidemill.cli import main
main()
"""


def job_file(
    directory: Path, package: Path, source: Path, sink: Path | str, more: str = "", *, name: str = "nightly"
) -> Path:
    """A job that passes the ids through."""
    path = directory / "job.toml"
    path.write_text(
        f'name = "{name}"\npackage = "{package}"\nsource = "{source}"\nsink = "{sink}"\n'
        f'pass_through = ["id"]\nchunk_rows = 500\n{more}'
    )
    return path


def tidemill(*arguments: object, code: int = 0) -> Any:
    """Run a command in this process; what it prints, read as JSON where that was asked for."""
    done = run_command(*arguments)
    assert done.exit_code == code, done.stderr + done.stdout
    if "--json" in arguments and done.stdout:
        return json.loads(done.stdout)
    return done.stdout + done.stderr


def dawdling(seconds: float, *arguments: object) -> subprocess.Popen[str]:
    """Start a command whose shards have a thousand rows, and which waits at each chunk."""
    return subprocess.Popen(
        [sys.executable, "-c", DAWDLE, str(seconds), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
