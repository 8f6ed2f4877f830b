"""Part `batch`: `tidemill score` over Parquet beside a loop written by hand, each as a whole process on two cores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks import model
from benchmarks.machine import BIN, ROOT, Bystanders, cores, pinned


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows, how often."""

    rows: int = 10_000_000
    rounds: int = 5


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One whole process. `peak_mb` is resident memory of it and its children, MB of 10**6."""

    program: str
    round: int
    rows_per_second: float
    seconds: float
    cpu_seconds: float
    peak_mb: float
    processes: int
    others: float


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured. `equal` says that all outputs of both programs were the same bits."""

    settings: Settings
    cores: str
    input_mb: float
    output_mb: float
    scores: list[Score]
    equal: bool
    columns: list[str]

    def of(self, program: str) -> list[Score]:
        """The rounds of one program."""
        return [x for x in self.scores if x.program == program]

    def ratios(self, figure: str) -> list[float]:
        """A figure of `tidemill score` over that of the loop, round by round."""
        pairs = zip(self.of("tidemill"), self.of("loop"), strict=True)
        return [getattr(ours, figure) / getattr(theirs, figure) for ours, theirs in pairs]


class WrongOutputError(Exception):
    """A program wrote too few rows, or other values than its peer."""


def run(out: Path, settings: Settings) -> BatchResult:
    """Measure; files go below `out` (the input is kept for the next time, about 120 bytes a row)."""
    trained = model.make(out / "model")
    source = input_file(out, settings.rows)
    places = cores()
    targets = {"loop": out / "scored-loop.parquet", "tidemill": out / "scored-tidemill.parquet"}
    commands: dict[str, list[str | Path]] = {
        "loop": [sys.executable, ROOT / "benchmarks/batch_handwritten.py", trained.onnx, source, targets["loop"]],
        "tidemill": [BIN / "tidemill", "score", trained.package, source, targets["tidemill"]],
    }
    scores: list[Score] = []
    equal = True
    for number in range(1, settings.rounds + 1):
        for program, command in commands.items():
            remove(targets[program])
            # What the last process wrote is not to be written to disk on this one's time.
            os.sync()
            scores.append(score(out, program, command, places.both, settings.rows, number))
            rows = ds.dataset(targets[program], format="parquet").count_rows()
            if rows != settings.rows:
                raise WrongOutputError(f"{program} wrote {rows:,} rows of {settings.rows:,}")
        if number == 1:
            equal = _same(targets["tidemill"], targets["loop"])
            output_mb = _megabytes(targets["tidemill"])
            columns = ds.dataset(targets["tidemill"], format="parquet").schema.names
    for target in targets.values():
        remove(target)
    return BatchResult(
        settings=settings,
        cores=f"cores {places.both}",
        input_mb=_megabytes(source),
        output_mb=output_mb,
        scores=scores,
        equal=equal,
        columns=columns,
    )


def compare(ours: Path, theirs: Path) -> str:
    """The first difference between two outputs, in words; empty where every row is the same, in the same order."""
    left, right = (ds.dataset(p, format="parquet") for p in (ours, theirs))
    names = left.schema.names
    if sorted(names) != sorted(right.schema.names):
        return f"columns {names} and {right.schema.names}"
    start = 0
    for a, b in zip(_aligned(left, names), _aligned(right, names), strict=True):
        for name in names:
            x, y = a.column(name), b.column(name).cast(a.column(name).type)
            if not x.equals(y):
                return f"column {name} differs in rows {start:,} to {start + len(a):,}"
        start += len(a)
    return ""


def _aligned(table: ds.Dataset, names: list[str], size: int = 100_000) -> Iterator[pa.RecordBatch]:
    """The rows in pieces of equal size, however the file cuts them."""
    held: list[pa.RecordBatch] = []
    for batch in table.scanner(columns=names, batch_size=size).to_batches():
        held.append(batch)
        rows = pa.Table.from_batches(held).combine_chunks()
        while rows.num_rows >= size:
            yield rows.slice(0, size).combine_chunks().to_batches()[0]
            rows = rows.slice(size)
        held = rows.to_batches()
    yield from pa.Table.from_batches(held, table.schema).combine_chunks().to_batches() if held else []


def score(out: Path, program: str, command: list[str | Path], both: str, rows: int, number: int) -> Score:
    """Run a command to its end, and measure it."""
    result, log = out / "measured.json", out / "logs" / f"score-{program}.log"
    log.parent.mkdir(exist_ok=True)
    bystanders = Bystanders()
    with log.open("wb") as file:
        runner: list[str | Path] = [sys.executable, ROOT / "benchmarks/measured.py", result, *command]
        done = subprocess.run(pinned(both, runner), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise WrongOutputError(f"{program} ended with {done.returncode}; it said:\n{log.read_text()[-2000:]}")
    found = msgspec.json.decode(result.read_bytes(), type=dict[str, float])
    bystanders.ours(found["cpu_seconds"])
    score = Score(
        program=program,
        round=number,
        rows_per_second=rows / found["seconds"],
        seconds=found["seconds"],
        cpu_seconds=found["cpu_seconds"],
        peak_mb=found["peak_mb"],
        processes=int(found["processes"]),
        others=bystanders.share(),
    )
    print(
        f"  round {number}  {program:<13}{score.seconds:>7.1f} s  {score.rows_per_second:>10,.0f} rows/s"
        f"  {score.cpu_seconds:>6.1f} CPU s  peak {score.peak_mb:>6,.0f} MB",
        flush=True,
    )
    return score


def input_file(out: Path, rows: int) -> Path:
    """The input of so many rows, read into memory once."""
    path = out / f"rows-{rows}.parquet"
    if not path.exists():
        need = rows * 150 + 2e9
        free = shutil.disk_usage(out).free
        if free < need:
            raise SystemExit(f"{out} has {free / 1e9:.1f} GB free; {rows:,} rows need {need / 1e9:.1f} GB (or --rows)")
        print(f"  writing {rows:,} rows to {path.name} (once)", flush=True)
        subprocess.run([sys.executable, "-m", "benchmarks.data", path, str(rows)], cwd=ROOT, check=True)
    assert pq.read_metadata(path).num_rows == rows
    # Both programs read it from memory, the first one too.
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
    return path


def _same(ours: Path, theirs: Path) -> bool:
    difference = compare(ours, theirs)
    if difference:
        print(f"  outputs differ: {difference}", flush=True)
    return not difference


def remove(target: Path) -> None:
    """An output and what lies beside it."""
    for path in (target, *target.parent.glob(f".{target.name}*"), *target.parent.glob(f"{target.name}.*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _megabytes(target: Path) -> float:
    files = [target] if target.is_file() else [f for f in target.rglob("*") if f.is_file()]
    return sum(f.stat().st_size for f in files) / 1e6
