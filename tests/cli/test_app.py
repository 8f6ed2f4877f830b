"""The border: help, versions, usage errors, exit codes, and no traceback unless asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tidemill as library
from tests.cli.support import PROGRAM, tidemill
from tidemill.errors import PackageError

COMMANDS = ["package", "inspect", "check", "verify", "serve", "score"]


def test_help_lists_the_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, tidemill.cli\ntry:\n    sys.argv[1:] = ['--help']; tidemill.cli.main()\n"
        "except SystemExit as end:\n    heavy = {'numpy', 'pyarrow', 'onnxruntime', 'uvloop'} & sys.modules.keys()\n"
        "    sys.exit(end.code or bool(heavy) * 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    done = tidemill(command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_version() -> None:
    assert tidemill("--version").stdout == f"tidemill {library.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [(), ("nothing",), ("inspect",), ("verify", "x", "--rows", "0"), ("check", "a", "b")]
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert tidemill(*arguments).exit_code == 2


def test_an_error_is_one_message_on_stderr_and_no_traceback(tmp_path: Path) -> None:
    done = tidemill("inspect", tmp_path)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "not a model package" in done.stderr


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    with pytest.raises(PackageError):
        tidemill("--debug", "inspect", tmp_path)
    done = subprocess.run([*PROGRAM, "--debug", "inspect", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "open_package" in done.stderr


def test_text_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    assert "[red]x[/]: not a model package" in tidemill("inspect", "[red]x[/]").stderr


def test_the_shell_can_complete_commands() -> None:
    env = os.environ | {"_TIDEMILL_COMPLETE": "complete_bash", "COMP_WORDS": "tidemill ver", "COMP_CWORD": "1"}
    program = Path(sys.executable).parent / "tidemill"
    done = subprocess.run([program], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["verify"]
