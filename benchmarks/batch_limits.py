"""What a batch run costs as it grows, when it is killed, and beside its model: `python -m benchmarks limits`.

The same input 1, 10 and 40 times as long; a run killed with -9 at 10, 50 and 90 % and resumed; a model that sleeps.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import msgspec

from benchmarks import model
from benchmarks.batch import Score, input_file, score
from benchmarks.machine import BIN, ROOT, cores, pinned
from benchmarks.memory import family, pss
from tidemill.batch.options import RunReport

__all__ = ["Limits", "run"]

MOMENTS = (0.1, 0.5, 0.9)
RUN = "limits"
CALL_SECONDS = 0.02
SLEEPING = f"""
import time


class Model:
    inputs = {{"x": ("FP32", [-1])}}
    outputs = {{"y": ("FP32", [-1])}}

    def predict(self, rows):
        time.sleep({CALL_SECONDS})
        return {{"y": rows["x"]}}
"""
SLEEPING_ROWS = 400_000
SLEEPING_CALL_ROWS = 500
WORKERS = 2


class Grown(msgspec.Struct, frozen=True, kw_only=True):
    """A run over so many rows; `pss_mb` is the highest sum of PSS of its processes."""

    rows: int
    rows_per_second: float
    peak_mb: float
    pss_mb: float


class Killed(msgspec.Struct, frozen=True, kw_only=True):
    """A run killed at a share of its rows: shards that had been begun and were scored again by the resume."""

    moment: float
    sealed: int
    shards: int
    lost: int


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured. `overhead` is what the run took beyond the model's own sleep, over that sleep."""

    grown: list[Grown]
    killed: list[Killed]
    overhead: float

    @property
    def failures(self) -> list[str]:
        """Which of the goals are missed."""
        small, large = self.grown[-2], self.grown[-1]
        goals = {
            f"rows/s of {large.rows:,} rows {large.rows_per_second / small.rows_per_second:.2f} of those of "
            f"{small.rows:,}, 0.9 wanted": large.rows_per_second >= 0.9 * small.rows_per_second,
            f"RSS of {large.rows:,} rows {large.peak_mb / small.peak_mb:.2f} of that of {small.rows:,}, 1.1 wanted": (
                large.peak_mb <= 1.1 * small.peak_mb
            ),
            f"at most {WORKERS} shards are begun twice": all(k.lost <= WORKERS for k in self.killed),
            f"overhead beside a sleeping model {self.overhead:.1%}, 5 % wanted": self.overhead <= 0.05,
        }
        return [goal for goal, met in goals.items() if not met]


def run(out: Path, rows: int) -> Limits:
    """Measure with `rows`, 10 and 40 times as many, and print what came of it."""
    out.mkdir(parents=True, exist_ok=True)
    trained = model.make(out / "model")
    grown = [_grown(out, trained, rows * times) for times in (1, 10, 40)]
    killed = [_killed(out, trained, rows * 10, moment) for moment in MOMENTS]
    found = Limits(grown=grown, killed=killed, overhead=_overhead(out))
    for goal in found.failures:
        print(f"  not met: {goal}", flush=True)
    return found


def _grown(out: Path, trained: model.Model, rows: int) -> Grown:
    source, target = input_file(out, rows), out / "limits-grown"
    shutil.rmtree(target, ignore_errors=True)
    command: list[str | Path] = [BIN / "tidemill", "score", trained.package, source, target]
    done: Score = score(out, f"grown-{rows}", command, cores().both, rows, 1)
    shutil.rmtree(target)
    peak = 0.0
    with closing(_Process(out, pinned(cores().both, command))) as process:
        while process.running:
            peak = max(peak, process.pss())
            time.sleep(0.2)
    shutil.rmtree(target)
    found = Grown(rows=rows, rows_per_second=done.rows_per_second, peak_mb=done.peak_mb, pss_mb=peak)
    print(f"  {rows:>12,} rows: {found.rows_per_second:,.0f} rows/s, {found.peak_mb:,.0f} MB RSS, {peak:,.0f} MB PSS")
    return found


def _killed(out: Path, trained: model.Model, rows: int, moment: float) -> Killed:
    source, target = input_file(out, rows), out / "limits-killed"
    stage = out / f".limits-killed.tidemill-{RUN}"
    for path in (target, stage):
        shutil.rmtree(path, ignore_errors=True)
    command: list[str | Path] = [BIN / "tidemill", "score", trained.package, source, target, "--run-id", RUN, "--json"]
    with closing(_Process(out, pinned(cores().both, command))) as process:
        shards = 0
        while process.running:
            if not shards and (stage / "plan.json").exists():
                shards = len(json.loads((stage / "plan.json").read_bytes())["shards"])
            if shards and len(list((stage / "shards").glob("*.json"))) >= moment * shards:
                process.kill()
            time.sleep(0.005)
    sealed = len(list((stage / "shards").glob("*.json")))
    # Whoever has a file in the stage's work was begun and is lost.
    begun = len({p.name for p in (stage / "work").iterdir() if p.name.startswith("part-")})
    done = subprocess.run(pinned(cores().both, command), check=True, capture_output=True, cwd=ROOT)
    report = msgspec.json.decode(done.stdout.splitlines()[-1], type=RunReport)
    if report.state != "done" or (report.resumed_shards, report.read) != (sealed, rows):
        raise RuntimeError(
            f"{report.state}: {sealed} of {shards} shards were sealed when it was killed, {report.resumed_shards} "
            f"taken up, {report.read} rows read (with few shards it may have ended before)"
        )
    shutil.rmtree(target)
    print(f"  killed at {moment:.0%}: {sealed} of {shards} shards were sealed, {begun} begun ones scored again")
    return Killed(moment=moment, sealed=sealed, shards=shards, lost=begun)


def _overhead(out: Path) -> float:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    source, target, package = out / "sleeping.parquet", out / "limits-sleeping", out / "sleeping"
    (out / "sleeping.py").write_text(SLEEPING)
    pq.write_table(pa.table({"x": np.arange(SLEEPING_ROWS, dtype="f4")}), source, row_group_size=20_000)
    package_command = [BIN / "tidemill", "package", out / "sleeping.py", "--out", package, "--overwrite"]
    subprocess.run(package_command, check=True, capture_output=True, cwd=ROOT)
    shutil.rmtree(target, ignore_errors=True)
    command: list[str | Path] = [BIN / "tidemill", "score", package, source, target, "--json"]
    command += ["--call-rows", str(SLEEPING_CALL_ROWS), "--chunk-rows", "5000", "--workers", str(WORKERS)]
    done = subprocess.run(pinned(cores().both, command), check=True, capture_output=True, cwd=ROOT)
    report = msgspec.json.decode(done.stdout.splitlines()[-1], type=RunReport)
    asleep = SLEEPING_ROWS / SLEEPING_CALL_ROWS * CALL_SECONDS / WORKERS
    overhead = report.seconds / asleep - 1
    shutil.rmtree(target)
    print(f"  a model asleep for {asleep:.1f} s: {report.seconds:.1f} s, {overhead:.1%} more", flush=True)
    return overhead


class _Process:
    """A command of our own, and all that it starts."""

    def __init__(self, out: Path, command: list[str | Path]) -> None:
        self._log = (out / "limits.log").open("wb")
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=self._log, stderr=subprocess.STDOUT)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def pss(self) -> float:
        """MB now; 0 where it is just ending."""
        total = 0.0
        for pid in family(self._process.pid):
            try:
                total += pss(pid)
            except (OSError, ProcessLookupError):
                continue
        return total

    def kill(self) -> None:
        """kill -9, its children too: as a lost machine does."""
        for pid in reversed(family(self._process.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()

    def close(self) -> None:
        if self.running:
            self.kill()
        self._log.close()
