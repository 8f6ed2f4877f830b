"""A run, ended just before or just after any of its outside effects, as often as wanted, and how it ends after all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from tidemill.batch import ScoreOptions
from tidemill.batch.options import RunReport

PATIENCE = 120.0
# All moments, or how many of each part of a run.
SWEEP = os.environ.get("TIDEMILL_SWEEP", "")
EVERY = SWEEP == "all"


def compiled(directory: Path) -> Path:
    """The library that counts effects and ends the process at one."""
    library = directory / "effects.so"
    source = Path(__file__).with_name("effects.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@dataclass
class Ground:
    """A job and its places. `rows` are the ids that a reader of the target sees now (None: no output), by a tool that
    shares no code with what wrote it; `dead` those of the dead letters.
    """

    package: Path
    source: str
    sink: str
    options: ScoreOptions
    rows: Callable[[], list[int] | None]
    dead: Callable[[], list[int]]
    directory: Path
    """Where it runs: outputs that are not files keep their stage there."""
    environment: dict[str, str] = field(default_factory=dict)
    kept: Callable[[], object] = lambda: None
    """What tells an output that nobody has touched from the same rows written again."""

    def left(self) -> list[str]:
        """What an ended run has left lying about: stages, and files half written."""
        runs = self.directory / "tidemill-runs"
        kept = [p.name for p in runs.iterdir()] if runs.is_dir() else []
        return [
            *(p.name for p in self.directory.iterdir() if p.name.startswith(".")),
            *(n for n in kept if not n.endswith((".dead.parquet", ".manifest.json"))),
        ]


@dataclass(frozen=True)
class Execution:
    """A process of a run that has ended or stopped: `status` as waitpid tells it, and what it wrote."""

    pid: int
    status: int
    out: Path
    err: Path

    @property
    def stopped(self) -> bool:
        return os.WIFSTOPPED(self.status)

    @property
    def killed(self) -> bool:
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    @property
    def report(self) -> RunReport | None:
        """None for one that has failed. Fails itself where it was ended or broke otherwise."""
        if os.waitstatus_to_exitcode(self.status):
            text = self.err.read_text()
            assert os.WIFEXITED(self.status), (self.status, text)
            assert "Traceback" not in text, text
            return None
        return msgspec.json.decode(self.out.read_text().splitlines()[-1], type=RunReport)


class Runs:
    """Processes of runs, under a library that ends them at an effect: forks of one that has imported everything."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._count = directory, 0
        self.library = compiled(directory)
        # Threads of OpenBLAS are started by its import, and would not survive a fork.
        environment = {"LD_PRELOAD": str(self.library), "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("forked.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def close(self) -> None:
        """End the process that is forked."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()

    def execute(
        self,
        ground: Ground,
        *,
        log: Path | None = None,
        kill: int = 0,
        after: bool = False,
        stop: bool = False,
        cwd: Path | None = None,
        waits: float = 30.0,
    ) -> Execution:
        """One execution, to its end; or it is killed, or stopped, before its effect `kill`, or after it. `waits` are
        the seconds that it gives others to let go of a target.
        """
        self._count += 1
        out, err, modules = (self._directory / f"{self._count}.{name}" for name in ("out", "err", "modules"))
        environment = {
            **ground.environment,
            **({"EFFECTS": str(log)} if log else {}),
            **({"EFFECTS_KILL": str(kill)} if kill else {}),
            **({"EFFECTS_AFTER": "1"} if after else {}),
            **({"EFFECTS_SIGNAL": str(int(signal.SIGSTOP))} if stop else {}),
        }
        options = msgspec.json.encode(ground.options).decode()
        answer = self._ask(
            arguments=[str(ground.package), ground.source, ground.sink, options],
            cwd=str(cwd or ground.directory),
            environment=environment,
            out=str(out),
            err=str(err),
            modules=str(modules),
            waits=waits,
        )
        return Execution(answer["pid"], answer["status"], out, err)

    def go_on(self, stopped: Execution) -> Execution:
        """Continue one that was stopped, to its end."""
        answer = self._ask(go_on=stopped.pid)
        return Execution(stopped.pid, answer["status"], stopped.out, stopped.err)

    def _ask(self, **request: Any) -> dict[str, int]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(request | {"patience": PATIENCE}), file=process.stdin, flush=True)
        answer: dict[str, int] = json.loads(process.stdout.readline())
        return answer


def run(ground: Ground, runs: Runs, *, log: Path | None = None, kill: int = 0, after: bool = False) -> RunReport | None:
    """One execution. None if it was ended at its effect `kill`."""
    done = runs.execute(ground, log=log, kill=kill, after=after)
    if kill and done.killed:
        return None
    report = done.report
    assert report is not None, done.err.read_text()
    return report


@contextmanager
def watched(ground: Ground) -> Iterator[list[list[int] | None]]:
    """The different things that a reader sees who never rests."""
    seen: list[list[int] | None] = []
    done = threading.Event()
    failures: list[Exception] = []

    def look() -> None:
        try:
            while not done.is_set():
                found = ground.rows()
                if found not in seen:
                    seen.append(found)
                time.sleep(0.02)
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            failures.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield seen
    finally:
        done.set()
        reader.join()
    if failures:
        raise failures[0]


def points(name: str, effects: int, part: int, parts: int, *, some: int = 8) -> Sequence[tuple[int, bool]]:
    """Of all moments (the effect, and whether after it) those of one part: `some`, or what TIDEMILL_SWEEP asks for."""
    every = [(n, after) for n in range(1, effects + 1) for after in (False, True)]
    mine = every[part::parts]
    if EVERY:
        return mine
    some = int(SWEEP) if SWEEP else some
    # One of each stretch of the run, the last of which has the commit; other ones for each name.
    chosen = zlib.crc32(name.encode())
    bounds = [i * len(mine) // some for i in range(some + 1)]
    return [mine[a + chosen * (2 * i + 1) % (b - a)] for i, (a, b) in enumerate(pairwise(bounds)) if b > a]
