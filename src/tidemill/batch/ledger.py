"""The ledger of a run: files beside the output that say what was planned and which shards are sealed.

.NAME.tidemill-RUNID/
  lock         held by the one driver
  plan.json    what the run is
  shards/      a marker for each sealed shard: its counts, and the checksums of what holds its rows
  parts/       sealed parts; becomes the output when that is a directory
  dead/        sealed dead letters
  work/        what is being written; means nothing to a resume
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import msgspec

from tidemill.batch.plan import Plan
from tidemill.config import Config
from tidemill.errors import RunError, SinkError

__all__ = ["Ledger", "PartFile", "PieceCount", "Sealed", "part_file", "stage_path", "sync_directory", "write_durably"]

T = TypeVar("T")


class PartFile(Config, frozen=True, kw_only=True):
    """A sealed file: its name, rows, bytes and SHA-256 (hex)."""

    name: str
    rows: int
    bytes: int
    sha256: str


class PieceCount(Config, frozen=True, kw_only=True):
    """What became of the rows of one piece of a file."""

    file: int
    read: int
    dead: int


class Sealed(Config, frozen=True, kw_only=True):
    """The marker of a sealed shard. `read = part.rows + dead.rows`, as the files themselves tell."""

    format: Literal[1]
    shard: int
    pieces: tuple[PieceCount, ...]
    errors: dict[str, int]
    part: PartFile
    dead: PartFile | None

    @property
    def read(self) -> int:
        return sum(p.read for p in self.pieces)

    @property
    def dead_rows(self) -> int:
        return self.dead.rows if self.dead is not None else 0


def stage_path(output: Path, run_id: str) -> Path:
    """The directory of a run's ledger: on the file system of the output, so that a rename can publish."""
    return output.parent / f".{output.name}.tidemill-{run_id}"


class Ledger:
    """One run's ledger, held exclusively while the context is open."""

    def __init__(self, stage: Path) -> None:
        self.stage = stage
        self._lock = -1

    def __enter__(self) -> Ledger:
        while True:
            self.stage.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = os.open(self.stage / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:  # its last driver has just finished and removed it
                continue
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                raise RunError(
                    f"{self.stage.name}: another process is driving this run; let it finish, or use another run id"
                ) from None
            if self._still_there():
                break
            os.close(self._lock)
        for name in ("shards", "parts", "dead", "work"):
            (self.stage / name).mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def _still_there(self) -> bool:
        try:
            return os.stat(self.stage / "lock").st_ino == os.fstat(self._lock).st_ino
        except FileNotFoundError:
            return False

    def plan(self) -> Plan | None:
        """The plan this run was begun with, or None for a new run."""
        path = self.stage / "plan.json"
        return _read(path, Plan) if path.exists() else None

    def begin(self, plan: Plan) -> None:
        """Write the plan of a new run."""
        write_durably(self.stage / "plan.json", msgspec.json.encode(plan))

    def sealed(self, plan: Plan) -> dict[int, Sealed]:
        """The shards that are sealed, each with its files found whole. Others are to be scored again."""
        found: dict[int, Sealed] = {}
        shutil.rmtree(self.stage / "work")
        (self.stage / "work").mkdir()
        for shard in plan.shards:
            path = self.stage / "shards" / f"{shard.index:05d}.json"
            if not path.exists():
                continue
            try:
                marker = _read(path, Sealed)
            except RunError:
                continue
            if (
                marker.shard == shard.index
                and _whole(self.stage / "parts", marker.part)
                and (marker.dead is None or _whole(self.stage / "dead", marker.dead))
            ):
                found[shard.index] = marker
        return found

    def remove_unused(self) -> None:
        """Take the ledger away if it holds nothing that a resume would keep or a person would look at."""
        if not any((self.stage / name).is_dir() and any((self.stage / name).iterdir()) for name in ("shards", "dead")):
            self.remove()

    def remove(self) -> None:
        """Take the ledger away: the output holds the truth now."""
        shutil.rmtree(self.stage, ignore_errors=True)


def part_file(path: Path, rows: int) -> PartFile:
    """Make a written file durable and describe it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
    return PartFile(name=path.name, rows=rows, bytes=size, sha256=digest)


def write_durably(path: Path, data: bytes) -> None:
    """Write a small file as a whole or not at all. Raises SinkError."""
    aside = path.with_name(path.name + ".new")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
        sync_directory(path.parent)
    except OSError as error:
        raise SinkError(f"{path}: cannot be written: {error.strerror}; make room and resume the run") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _whole(directory: Path, part: PartFile) -> bool:
    path = directory / part.name
    if "/" in part.name or not path.is_file() or path.stat().st_size != part.bytes:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == part.sha256


def _read(path: Path, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except (msgspec.DecodeError, OSError) as error:
        raise RunError(
            f"{path}: cannot be understood ({error}); it was damaged or made by another version; use another run id"
        ) from None
