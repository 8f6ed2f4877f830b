"""The manifest that a run leaves with its output: what was read, by which model, what came of every row, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.distribution import Distribution, merge
from tidemill.batch.jobs.gate import Check
from tidemill.batch.ledger import PartFile, Sealed
from tidemill.batch.places import DIRECTORY
from tidemill.batch.plan import Plan
from tidemill.batch.stage import Stage
from tidemill.config import Config
from tidemill.errors import RunError

__all__ = ["FileCount", "Quarantined", "RunManifest", "checked_manifest", "dead_place", "find_manifest"]


# Files that are counted at once: in a store each is asked for, and the answers take their time.
_COUNTED = 16


class FileCount(Config, frozen=True, kw_only=True):
    """What became of one input file: `read = written + dead`."""

    name: str
    read: int
    written: int
    dead: int


class Quarantined(Config, frozen=True, kw_only=True):
    """A shard that could not be scored, of which every row is a dead letter."""

    shard: int
    rows: int
    reason: str


class RunManifest(Config, frozen=True, kw_only=True):
    """The whole record of a run. `parts` are the files that hold the rows, with their checksums.

    `job` is the name in its job file, `checks` is what the gate asked before it was published, `outputs` are the values
    of the model's outputs. `attempts` counts how often those shards were begun that had to be begun more than once,
    `cost` is what the seconds come to at the job's price, `cpu_seconds` and `peak_rss_bytes` are those of the driver in
    its last execution.
    """

    format: Literal[1]
    run_id: str
    job: str = ""
    state: Literal["done", "over_budget", "held"]
    finished_at: str
    seconds: float
    attempts: dict[int, int] = msgspec.field(default_factory=dict)
    cost: float | None = None
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    read: int
    written: int
    dead: int
    errors: dict[str, int]
    files: tuple[FileCount, ...]
    parts: tuple[PartFile, ...]
    dead_letters: str | None
    quarantined: tuple[Quarantined, ...] = ()
    outputs: dict[str, Distribution] = msgspec.field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    plan: Plan


def dead_place(plan: Plan) -> str:
    """Where dead letters go when there are any: a file, an object of a store, or what lies inside the output."""
    place = plan.job.dead_letters or plan.job.sink.dead
    return place if remote(place) else str(Path(place).absolute())


def find_manifest(place: str) -> tuple[str, bytes] | None:
    """The manifest of the output at a place (a directory, a file, a prefix or an object of a store), or the one that
    lies there itself: where, and its bytes. None where there is none. Raises SourceError, OSError, ConfigError.
    """
    if remote(place):
        from tidemill.batch.stores.inputs import read_manifest

        return read_manifest(place)
    path = Path(place).absolute()
    for one in (path, path / DIRECTORY / "manifest.json", Path(f"{path}.manifest.json")):
        if one.suffix == ".json" and one.is_file():
            return str(one), one.read_bytes()
    return None


def checked_manifest(
    plan: Plan,
    sealed: Sequence[Sealed],
    stage: Stage,
    *,
    state: Literal["done", "over_budget"],
    finished_at: str,
    seconds: float,
) -> RunManifest:
    """The manifest of these shards, counted against what their files say they hold.

    Raises RunError where rows are missing or counted twice: then nothing may be published.
    """
    written = _written(plan, sealed, stage)
    read, dead = [0] * len(plan.files), [0] * len(plan.files)
    errors: Counter[str] = Counter()
    for marker in sealed:
        for piece in marker.pieces:
            read[piece.file] += piece.read
            dead[piece.file] += piece.dead
        errors.update(marker.errors)
    if state == "done":
        for file, found in zip(plan.files, read, strict=True):
            if file.rows is not None and file.rows != found:
                raise RunError(f"{file.name}: holds {file.rows} rows, {found} were read; nothing is published")
    if sum(read) != written + sum(dead):
        raise RunError(f"{sum(read)} rows read, {written} written, {sum(dead)} dead; nothing is published")
    return RunManifest(
        format=1,
        run_id=plan.run_id,
        state=state,
        finished_at=finished_at,
        seconds=round(seconds, 3),
        read=sum(read),
        written=written,
        dead=sum(dead),
        errors=dict(errors),
        files=tuple(
            FileCount(name=f.name, read=r, written=r - d, dead=d)
            for f, r, d in zip(plan.files, read, dead, strict=True)
        ),
        parts=tuple(m.part for m in sealed),
        dead_letters=dead_place(plan) if sum(dead) else None,
        quarantined=tuple(
            Quarantined(shard=m.shard, rows=m.read, reason=m.quarantined) for m in sealed if m.quarantined is not None
        ),
        outputs=merge(m.outputs for m in sealed),
        plan=plan,
    )


def _written(plan: Plan, sealed: Sequence[Sealed], stage: Stage) -> int:
    """The rows of all parts, as these tell themselves. Raises RunError for a marker that tells of others."""

    def counted(marker: Sealed) -> tuple[int, int]:
        rows = stage.rows("parts", marker.part, plan.job.sink.format)
        return rows, stage.rows("dead", marker.dead, "parquet") if marker.dead is not None else 0

    with ThreadPoolExecutor(_COUNTED, "tidemill-count") as pool:
        counts = list(pool.map(counted, sealed))
    for marker, (rows, letters) in zip(sealed, counts, strict=True):
        if not all(0 <= piece.file < len(plan.files) for piece in marker.pieces):
            raise RunError(
                f"shard {marker.shard}: its marker tells of a file that the run has not; nothing is published"
            )
        if rows + letters != marker.read or letters != marker.dead_rows or letters != sum(marker.errors.values()):
            raise RunError(
                f"shard {marker.shard}: {marker.read} rows were read, its part holds {rows} and its dead letters "
                f"{letters}; nothing is published"
            )
    return sum(rows for rows, _ in counts)
