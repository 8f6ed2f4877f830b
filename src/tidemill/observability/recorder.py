"""A process's numbers in memory that it shares with a file: a reader sees them at once, and kill -9 loses none.

A file (version 1, little-endian) is a head and records, never moved or shortened:

    head    magic 8s, version u32, size of the head u32, pid u64, unix time f64, bytes used u64, 24 reserved
    record  whole size u32, size of the name u32, values u32, CRC-32 of the name u32,
            name (JSON: family, kind, edges, labels), filler up to 8 bytes, values f64

Only the thread that owns the recorder writes, each value in place and whole. The file is locked (flock) while its
process lives: whoever can lock it knows that the process is gone.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
import zlib
from pathlib import Path

import orjson

from tidemill.observability.families import Family

__all__ = ["HEAD", "MAGIC", "RECORD", "SUFFIX", "VERSION", "Recorder", "name_of", "record_bytes"]

MAGIC = b"TMCOUNTS"
VERSION = 1
SUFFIX = ".counters"
HEAD = struct.Struct("<8sIIQdQ24x")
RECORD = struct.Struct("<IIII")
USED = struct.Struct("<Q")
USED_AT = 32
# A file's size. What does not fit goes into the process's next one; untouched pages take no memory.
CHUNK = 1 << 20


class Recorder:
    """Hands out places for values, one a series; the same series has the same place for as long as the process."""

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        """Without a directory the memory is private, and `maps` is the only way to read it. Raises OSError."""
        self.maps: list[mmap.mmap] = []
        self.directory = None if directory is None else Path(directory)
        self._places: dict[bytes, memoryview[float]] = {}
        self._used = CHUNK
        self._extend()

    def values(self, family: Family, **labels: str) -> memoryview[float]:
        """The numbers of one series, to be changed in place; zeros at first."""
        name = name_of(family, labels)
        place = self._places.get(name)
        if place is None:
            record = record_bytes(name, [0.0] * family.values)
            if self._used + len(record) > CHUNK:
                self._extend()
            chunk, start = self.maps[-1], self._used
            chunk[start : start + len(record)] = record
            self._used = start + len(record)
            USED.pack_into(chunk, USED_AT, self._used)
            place = memoryview(chunk)[self._used - 8 * family.values : self._used].cast("d")
            self._places[name] = place
        return place

    def _extend(self) -> None:
        """Begin another file."""
        if self.directory is None:
            chunk = mmap.mmap(-1, CHUNK)
            _begin(chunk)
        else:
            chunk = _create(self.directory / f"{os.getpid()}-{time.time_ns()}-{len(self.maps)}{SUFFIX}")
        self.maps.append(chunk)
        self._used = HEAD.size


def _begin(chunk: mmap.mmap) -> None:
    chunk[: HEAD.size] = HEAD.pack(MAGIC, VERSION, HEAD.size, os.getpid(), time.time(), HEAD.size)


def _create(path: Path) -> mmap.mmap:
    part = path.with_suffix(".part")
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Taken from the disk now: a full one must not end the process at its next count.
        try:
            os.posix_fallocate(descriptor, 0, CHUNK)
        except OSError as error:
            part.unlink()
            raise OSError(error.errno, f"{error.strerror} for counters", str(path.parent)) from None
        # The map keeps the open file, and with it the lock, until the process ends.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        chunk = mmap.mmap(descriptor, CHUNK)
        _begin(chunk)
        part.rename(path)
        return chunk
    finally:
        os.close(descriptor)


def name_of(family: Family, labels: dict[str, str]) -> bytes:
    """What a record says of its series."""
    if labels.keys() != set(family.labels):
        raise ValueError(f"{family.name}: labels {sorted(labels)}, expected {sorted(family.labels)}")
    return orjson.dumps(
        {"family": family.name, "kind": family.kind.value, "edges": family.edges, "labels": labels},
        option=orjson.OPT_SORT_KEYS,
    )


def record_bytes(name: bytes, values: list[float]) -> bytes:
    """One record."""
    filler = -len(name) % 8
    size = RECORD.size + len(name) + filler + 8 * len(values)
    head = RECORD.pack(size, len(name), len(values), zlib.crc32(name))
    return b"".join((head, name, bytes(filler), struct.pack(f"<{len(values)}d", *values)))
