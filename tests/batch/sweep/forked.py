"""A program that has everything imported and has done nothing else: each run is a fork of it, which costs no imports.

Reads requests, one JSON a line: a run to fork, or one to continue that is stopped. Answers each with its process number
and its status, as waitpid tells it, once it has ended or stopped.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from tidemill.batch import ScoreOptions, plan, score
from tidemill.batch.databases import local, sqlite
from tidemill.batch.targets import fence
from tidemill.errors import TidemillError

# The threads that importing all this leaves; see `threads`.
IDLE = 1


def child(request: dict[str, Any], known: set[str]) -> int:
    """Be the run that is asked for, to its end: its exit code. What it has imported beside is told in a file, for those
    to come.
    """
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    for number, name in enumerate((os.devnull, request["out"], request["err"])):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    plan.SHARD_ROWS = 400
    # Where another holds what a commit needs, and is stopped.
    local._PATIENCE = sqlite._BUSY_SECONDS = fence._PATIENCE = request["waits"]
    package, source, sink, options = request["arguments"]
    with contextlib.suppress(FileNotFoundError):  # effects.c takes it for a signal
        os.rmdir("/effects begin")
    code = 0
    try:
        print(score(package, source, sink, msgspec.json.decode(options, type=ScoreOptions)).to_json(), flush=True)
    except TidemillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except Exception:  # noqa: BLE001 - the tests look for it
        traceback.print_exc()
        code = 70
    new = [n for n in sys.modules if n not in known]
    if new:
        Path(request["modules"]).write_text(json.dumps(new))
    return code


def threads() -> list[str]:
    """The names of threads that a fork would copy half-way: others than jemalloc's, which sees to that itself, and
    those that ONNX Runtime has from its import on: one, which sleeps.
    """
    names = [(t / "comm").read_text().strip() for t in Path("/proc/self/task").iterdir() if t.name != str(os.getpid())]
    return [n for n in names if n != "jemalloc_bg_thd"][IDLE:]


def alone() -> None:
    """Wait until threads that were just started have their names, or fail."""
    until = time.monotonic() + 30
    while threads():
        assert time.monotonic() < until, threads()
        time.sleep(0.01)


def learn(name: str) -> None:
    """Import what a run had to."""
    file = Path(name)
    if not file.exists():
        return
    for module in json.loads(file.read_text()):
        with contextlib.suppress(Exception):  # made by others as they are imported, not importable
            importlib.import_module(module)
    gc.freeze()


def ended(pid: int, patience: float) -> int:
    """The status of a child that has ended or stopped; it is killed where it takes too long."""
    until = time.monotonic() + patience
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found:
            return status
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.003)


def main() -> None:
    gc.freeze()
    known = set(sys.modules)
    stopped: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        pid = request.get("go_on")
        if pid:
            os.kill(pid, signal.SIGCONT)
        else:
            alone()
            pid = os.fork()
            if pid == 0:
                # Past what ends an interpreter: ONNX Runtime would wait for its thread, which the fork has not.
                os._exit(child(request, known))
        status = ended(pid, request["patience"])
        if "modules" in request:
            learn(request["modules"])
            known = set(sys.modules)
        (stopped.add if os.WIFSTOPPED(status) else stopped.discard)(pid)
        print(json.dumps({"pid": pid, "status": status}), flush=True)
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)


main()
