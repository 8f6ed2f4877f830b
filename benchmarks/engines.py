"""Part `engines`: `tidemill score` here, on Spark and on Ray, beside mapInArrow and map_batches written by hand."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks import batch, model
from benchmarks.engines_programs import PROGRAMS
from benchmarks.machine import BIN, cores
from benchmarks.tables import met, spread, table

GOALS = (
    ("spark_engine", "spark_hand", 0.95, "rows/s of the Spark engine over a hand-written mapInArrow's"),
    ("local", "spark_hand", 1.8, "rows/s of `tidemill score` over a hand-written mapInArrow's"),
    ("local", "ray_plain", 8.0, "rows/s of `tidemill score` over map_batches as Ray sets it"),
    ("local", "ray_hand", 8.0, "rows/s of `tidemill score` over map_batches tuned by hand"),
)
# In what is compared, `tidemill score` has its start in it and what needs a cluster has not.
LABELS = {
    "local": "`tidemill score`",
    "spark_hand": "mapInArrow by hand",
    "spark_score": "`tidemill.spark.score`",
    "spark_engine": 'engine "spark"',
    "ray_plain": "map_batches as Ray sets it",
    "ray_hand": "map_batches tuned by hand",
    "ray_score": "`tidemill.ray.score`",
    "ray_engine": 'engine "ray"',
}
Sums = tuple[tuple[str, int, int], ...]
HEADER = ("program", "rows/s", "of `tidemill score`", "seconds", "with the start", "peak memory MB", "processes")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows, how often."""

    rows: int = 10_000_000
    rounds: int = 3


class EnginesResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured. `working` are the seconds of each round of a program without the start of its
    cluster, `equal` says that all programs wrote the same values, in whatever order.
    """

    settings: Settings
    cores: str
    scores: list[batch.Score]
    working: dict[str, list[float]]
    equal: bool

    def of(self, program: str) -> list[batch.Score]:
        """The rounds of one program."""
        return [x for x in self.scores if x.program == program]

    def ratios(self, ours: str, theirs: str) -> list[float]:
        """Rows/s of the one over the other's, round by round."""
        return [b / a for a, b in zip(self.working[ours], self.working[theirs], strict=True)]


def run(out: Path, settings: Settings) -> EnginesResult:
    """Measure; files go below `out` (the input is kept for the next time)."""
    trained = model.make(out / "model")
    source = batch.input_file(out, settings.rows).resolve()
    places = cores()
    target, seconds = (out / "scored-engine").resolve(), (out / "seconds.txt").resolve()
    scores: list[batch.Score] = []
    working: dict[str, list[float]] = {program: [] for program in LABELS}
    found: set[Sums] = set()
    for number in range(1, settings.rounds + 1):
        for program in ("local", *PROGRAMS):
            command: list[str | Path] = [sys.executable, "-m", "benchmarks.engines_programs", program]
            command += [trained.onnx.resolve(), trained.package.resolve(), source, target, seconds]
            if program == "local":
                command = [BIN / "tidemill", "score", trained.package, source, target]
            batch.remove(target)
            # What the last process wrote is not to be written to disk on this one's time.
            os.sync()
            scores.append(batch.score(out, program, command, places.both, settings.rows, number))
            working[program].append(float(seconds.read_text()) if program != "local" else scores[-1].seconds)
            if number == 1:
                found.add(sums(target, settings.rows))
    batch.remove(target)
    return EnginesResult(
        settings=settings, cores=f"cores {places.both}", scores=scores, working=working, equal=len(found) == 1
    )


def sums(target: Path, rows: int) -> Sums:
    """Of each output its values and the sum of their bits: the same for the same values in any order."""
    totals: dict[str, list[int]] = {}
    read = 0
    outputs = ds.dataset(target, format="parquet")
    names = [name for name in outputs.schema.names if not name.startswith("_")]
    for part in outputs.scanner(columns=names).to_batches():
        read += part.num_rows
        for name, column in zip(names, part.columns, strict=True):
            while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
                column = column.flatten()
            values = column.to_numpy(zero_copy_only=False)
            bits = values.view(f"u{values.dtype.itemsize}")
            total = totals.setdefault(name, [0, 0])
            total[0] += len(values)
            total[1] = (total[1] + int(bits.sum(dtype=np.uint64))) % 2**64
    if read != rows:
        raise batch.WrongOutputError(f"{target.name} holds {read:,} rows of {rows:,}")
    return tuple(sorted((name, *total) for name, total in totals.items()))


def goals(result: EnginesResult) -> list[Sequence[str]]:
    """Lines of the report's table of goals."""
    lines: list[Sequence[str]] = []
    for ours, theirs, goal, name in GOALS:
        ratio = statistics.median(result.ratios(ours, theirs))
        lines.append((name, f"{ratio:.2f}", f"≥ {goal}", met(ratio >= goal)))
    return [*lines, ("values equal through every engine", "yes" if result.equal else "no", "yes", met(result.equal))]


def section(result: EnginesResult) -> str:
    """The part of the report."""
    lines = []
    for program, label in LABELS.items():
        scores = result.of(program)
        lines.append(
            (
                label,
                spread([result.settings.rows / x for x in result.working[program]]),
                spread(result.ratios(program, "local"), ".2f"),
                spread(result.working[program], ".1f"),
                spread([x.seconds for x in scores], ".1f"),
                f"{max(x.peak_mb for x in scores):,.0f}",
                str(max(x.processes for x in scores)),
            )
        )
    return f"""## Batch on Spark and Ray

{result.settings.rows:,} rows of 30 float32 from one Parquet file, the same model, {result.cores}, a Spark or a Ray of
this machine alone with as many workers. Each run is a whole process; rows/s and seconds leave the start of a cluster
out, and that of `tidemill score` in. {result.settings.rounds} rounds in turn, median (lowest to highest). By hand is
what one writes in an afternoon (`benchmarks/engines_programs.py`): ONNX Runtime in the worker, batches and calls as
large as Tidemill's. Every output was read back: its rows counted, the bits of its values added up.

{table(HEADER, lines)}

This part alone: `python -m benchmarks engines` (`--rows N` for fewer)."""
