"""An environment for each peer, below `build/peers`: their web frameworks' pins contradict each other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import ROOT

__all__ = ["HERE", "Missing", "environment"]

HERE = Path(__file__).parent
HOME = ROOT / "build/peers"
# Triton's Python backend is built for Debian's Python 3.11 and fails with one that was built elsewhere.
SYSTEM = "/usr/bin/python3.11"
DONE = ".installed"


class Missing(Exception):
    """A peer cannot be had on this machine; the text says why."""


def environment(name: str) -> Path:
    """The peer's interpreter; installed from `requirements/NAME.txt` where that is not done yet. Raises Missing."""
    wanted = HERE / f"requirements/{name}.txt"
    home = HOME / name
    mark = home / DONE
    if mark.exists() and mark.read_bytes() == wanted.read_bytes():
        return home / "bin/python"
    python = SYSTEM if name == "triton" else sys.executable
    if not Path(python).exists():
        raise Missing(f"{python} is not there")
    uv = shutil.which("uv", path=str(ROOT / ".uv/bin")) or shutil.which("uv")
    if uv is None:
        raise Missing("uv is not there: run make setup")
    print(f"  installing {name}", flush=True)
    for command in (
        [uv, "venv", "-q", "--clear", "--python", python, home],
        [uv, "pip", "install", "-q", "-p", home / "bin/python", "-r", wanted],
    ):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"{name}: {done.stderr.strip()[-500:]}")
    mark.write_bytes(wanted.read_bytes())
    return home / "bin/python"
