"""A run, ended just before or just after any of its outside effects, as often as wanted, and how it ends after all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tidemill.batch import ScoreOptions
from tidemill.batch.options import RunReport

PATIENCE = 120.0

# argv: package, source, sink, options as JSON
RUN = """
import os, sys
import msgspec
from tidemill.batch import ScoreOptions, plan, score
plan.SHARD_ROWS = 400
options = msgspec.json.decode(sys.argv[4], type=ScoreOptions)
try:
    os.rmdir("/effects begin")
except FileNotFoundError:
    pass
print(score(*sys.argv[1:4], options).to_json(), flush=True)
"""


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

    def left(self) -> list[str]:
        """What an ended run has left lying about: stages, and files half written."""
        runs = self.directory / "tidemill-runs"
        kept = [p.name for p in runs.iterdir()] if runs.is_dir() else []
        return [
            *(p.name for p in self.directory.iterdir() if p.name.startswith(".")),
            *(n for n in kept if not n.endswith((".dead.parquet", ".manifest.json"))),
        ]


def run(
    ground: Ground, library: Path, *, log: Path | None = None, kill: int = 0, after: bool = False
) -> RunReport | None:
    """One execution. None if it was ended at its effect `kill`."""
    environment = {
        **os.environ,
        **ground.environment,
        "LD_PRELOAD": str(library),
        "PYTHONDONTWRITEBYTECODE": "1",
        **({"EFFECTS": str(log)} if log else {}),
        **({"EFFECTS_KILL": str(kill)} if kill else {}),
        **({"EFFECTS_AFTER": "1"} if after else {}),
    }
    options = msgspec.json.encode(ground.options).decode()
    command = [sys.executable, "-c", RUN, str(ground.package), ground.source, ground.sink, options]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=ground.directory
    )
    if kill and done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=RunReport)


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


def points(name: str, effects: int, part: int, parts: int) -> list[tuple[int, bool]]:
    """Of all moments (the effect, and whether after it) those of one part: two, unless TIDEMILL_SWEEP says all."""
    every = [(n, after) for n in range(1, effects + 1) for after in (False, True)]
    mine = every[part::parts]
    if os.environ.get("TIDEMILL_SWEEP") == "all":
        return mine
    # One of the first half, one of the second, where the commit is; other ones for each name.
    half = len(mine) // 2
    chosen = zlib.crc32(name.encode()) % half
    return [mine[chosen], mine[half + (chosen * 3) % half]]
