"""The manifest that a run leaves with its output: what was read, by which model, what came of every row, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from tidemill.batch.ledger import PartFile, Sealed
from tidemill.batch.places import SinkPlace
from tidemill.batch.plan import Plan
from tidemill.batch.sinks import sink
from tidemill.batch.sinks.parquet import read_stamp
from tidemill.config import Config
from tidemill.errors import RunError
from tidemill.model.package import digest_file

__all__ = [
    "DIRECTORY",
    "FileCount",
    "RunManifest",
    "checked_manifest",
    "committed",
    "dead_path",
    "manifest_path",
]

# Inside an output directory; readers leave names with an underscore out.
DIRECTORY = "_tidemill"


class FileCount(Config, frozen=True, kw_only=True):
    """What became of one input file: `read = written + dead`."""

    name: str
    read: int
    written: int
    dead: int


class RunManifest(Config, frozen=True, kw_only=True):
    """The whole record of a run. `parts` are the files that hold the rows, with their checksums."""

    format: Literal[1]
    run_id: str
    state: Literal["done", "over_budget"]
    finished_at: str
    seconds: float
    read: int
    written: int
    dead: int
    errors: dict[str, int]
    files: tuple[FileCount, ...]
    parts: tuple[PartFile, ...]
    dead_letters: str | None
    plan: Plan


def manifest_path(place: SinkPlace) -> Path:
    """Where the manifest of a committed output lies: inside a directory, beside a file."""
    if place.directory:
        return Path(place.path) / DIRECTORY / "manifest.json"
    return Path(place.path + ".manifest.json")


def dead_path(plan: Plan) -> Path:
    """Where dead letters go when there are any: a file, or the directory inside the output."""
    if plan.job.dead_letters is not None:
        return Path(plan.job.dead_letters).absolute()
    if plan.job.sink.directory:
        return Path(plan.job.sink.path) / DIRECTORY / "dead"
    return Path(plan.job.sink.path + ".dead.parquet")


def checked_manifest(
    plan: Plan,
    sealed: Sequence[Sealed],
    stage: Path,
    *,
    state: Literal["done", "over_budget"],
    finished_at: str,
    seconds: float,
) -> RunManifest:
    """The manifest of these shards, counted against what their files say they hold.

    Raises RunError where rows are missing or counted twice: then nothing may be published.
    """
    parts, dead_parts = sink(plan.job.sink.format), sink("parquet")
    read, dead = [0] * len(plan.files), [0] * len(plan.files)
    errors: Counter[str] = Counter()
    written = 0
    for marker in sealed:
        for piece in marker.pieces:
            read[piece.file] += piece.read
            dead[piece.file] += piece.dead
        errors.update(marker.errors)
        rows = parts.count(stage / "parts" / marker.part.name)
        letters = dead_parts.count(stage / "dead" / marker.dead.name) if marker.dead is not None else 0
        if rows + letters != marker.read or letters != marker.dead_rows or letters != sum(marker.errors.values()):
            raise RunError(
                f"shard {marker.shard}: {marker.read} rows were read, its part holds {rows} and its dead letters "
                f"{letters}; nothing is published"
            )
        written += rows
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
        dead_letters=str(dead_path(plan)) if sum(dead) else None,
        plan=plan,
    )


def committed(place: SinkPlace) -> RunManifest | None:
    """The manifest of the output that is there now, or None where there is none, or not one of ours.

    The target decides. A directory carries its manifest inside. A file must be the one its manifest names: by the run
    id in the footer (Parquet), by its SHA-256 (CSV, JSON lines).
    """
    try:
        manifest = msgspec.json.decode(manifest_path(place).read_bytes(), type=RunManifest)
    except (OSError, msgspec.DecodeError):
        return None
    if place.directory:
        return manifest
    path = Path(place.path)
    if not path.is_file() or len(manifest.parts) != 1 or path.stat().st_size != manifest.parts[0].bytes:
        return None
    if place.format == "parquet":
        stamp = read_stamp(path)
        return manifest if stamp is not None and msgspec.json.decode(stamp).get("run_id") == manifest.run_id else None
    return manifest if digest_file(path) == manifest.parts[0].sha256 else None
