"""Running commands: in this process through the real application, or as the program itself."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from tidemill.cli.app import app

PROGRAM = [sys.executable, "-m", "tidemill"]


def tidemill(*arguments: object) -> Result:
    """Run a command in this process. What is no exit at all is raised here, as the program would show it."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def start(*arguments: object, cwd: Path | None = None, **more: Any) -> subprocess.Popen[str]:
    """Start the program."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
