"""The records of a run's ledger, and how files are made durable."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from tidemill.batch.distribution import Distribution
from tidemill.config import Config
from tidemill.errors import RunError, SinkError, first_line

__all__ = [
    "PartFile",
    "PieceCount",
    "Sealed",
    "aside",
    "decode_kept",
    "disk_refused",
    "part_file",
    "put_in_place",
    "sync_directory",
    "write_durably",
]

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
    """The marker of a sealed shard. `read = part.rows + dead.rows`, as the files themselves tell.

    `quarantined` is why all its rows were set aside, for one that was. `outputs` are the values of the model's outputs.
    """

    format: Literal[1]
    shard: int
    pieces: tuple[PieceCount, ...]
    errors: dict[str, int]
    part: PartFile
    dead: PartFile | None
    quarantined: str | None = None
    outputs: dict[str, Distribution] = msgspec.field(default_factory=dict)

    @property
    def read(self) -> int:
        return sum(p.read for p in self.pieces)

    @property
    def dead_rows(self) -> int:
        return self.dead.rows if self.dead is not None else 0


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
        raise disk_refused(path, error) from error


def aside(path: Path, run_id: str) -> Path:
    """Where a run makes ready what takes the place of `path` once its output is there."""
    return path.with_name(f".{path.name}.tidemill-{run_id}")


def put_in_place(path: Path, run_id: str) -> None:
    """Put it there, unless that was done already. Raises SinkError."""
    try:
        os.rename(aside(path, run_id), path)
        sync_directory(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_refused(path, error) from error


def disk_refused(what: object, error: OSError) -> SinkError:
    """What the disk said of something that was to be written, as an error of ours."""
    return SinkError(f"{what}: cannot be written: {error.strerror or first_line(error)}; make room and resume the run")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def decode_kept(data: bytes, type_: type[T], name: str) -> T:
    """A small file that a run has left. Raises RunError, which calls it `name`, where it cannot be understood."""
    try:
        return msgspec.json.decode(data, type=type_)
    except msgspec.DecodeError as error:
        raise RunError(
            f"{name}: cannot be understood ({error}); it was damaged or made by another version; use another run id"
        ) from None
