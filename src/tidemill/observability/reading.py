"""The numbers of all processes of a directory as one: what they counted sums, the dead included; gauges of the living.

Files of dead processes are made one (`retire`), so that restarts do not fill the directory. A file that is not whole
is told and left where it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import operator
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import orjson

from tidemill.observability.families import FAMILIES, Kind, Rule
from tidemill.observability.recorder import HEAD, MAGIC, RECORD, SUFFIX, VERSION, Recorder, record_bytes

__all__ = ["Series", "Totals", "retire", "total"]

log = logging.getLogger(__name__)

RETIRED = f"retired{SUFFIX}"
# How often a directory is read again because files were made one meanwhile.
ATTEMPTS = 20
FOLD: dict[Rule, Callable[[float, float], float]] = {Rule.SUM: operator.add, Rule.MAX: max, Rule.MIN: min}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of labels of a family, with its values."""

    family: str
    kind: Kind
    edges: tuple[float, ...]
    labels: dict[str, str]
    values: list[float]


@dataclass(slots=True)
class Totals:
    """What all processes counted together. `unreadable` names the files that were left out."""

    series: dict[bytes, Series] = field(default_factory=dict)
    processes: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, records: Iterable[tuple[bytes, Series]], alive: bool) -> None:
        """Sum one process's records with the others'; gauges only of one that lives."""
        for name, one in records:
            if one.kind is Kind.GAUGE and not alive:
                continue
            known = self.series.get(name)
            if known is None:
                self.series[name] = one
            elif len(known.values) == len(one.values):
                rule = Rule.SUM
                if one.kind is Kind.GAUGE and one.family in FAMILIES:
                    rule = FAMILIES[one.family].rule
                known.values[:] = map(FOLD[rule], known.values, one.values)

    def of(self, family: str) -> list[Series]:
        """All series of one family."""
        return [one for one in self.series.values() if one.family == family]


class _Broken(ValueError):
    """A file that is not whole."""


def total(source: Recorder | str | os.PathLike[str]) -> Totals:
    """The sum over a directory, or of one recorder's private memory. A directory that is not there has nothing."""
    if isinstance(source, Recorder):
        totals = Totals(processes=1)
        for chunk in source.maps:
            totals.add(_records(memoryview(chunk)), alive=True)
        return totals
    directory = Path(source)
    for _ in range(ATTEMPTS):
        before = _stamp(directory)
        totals = _total(directory)
        if _stamp(directory) == before:
            break
    for name, problem in totals.unreadable.items():
        log.warning("a file of counters cannot be read and is left out", extra={"file": name, "problem": problem})
    return totals


def _total(directory: Path) -> Totals:
    totals = Totals()
    merged: set[str] = set()
    with contextlib.suppress(FileNotFoundError, _Broken):
        merged = _merged(directory / RETIRED)
    living: set[str] = set()
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        if path.name in merged:
            continue
        try:
            with _opened(path) as (data, alive):
                found = list(_records(data))
        except FileNotFoundError:
            continue
        except (OSError, _Broken) as error:
            totals.unreadable[path.name] = str(error)
            continue
        totals.add(found, alive)
        if alive:
            living.add(path.name.partition("-")[0])
    totals.processes = len(living)
    return totals


def retire(directory: str | os.PathLike[str]) -> int:
    """Make the files of processes that are gone one. Returns how many there were. Raises OSError.

    The new file names what is in it, and only then are those deleted: killed anywhere, nothing counts twice.
    """
    directory = Path(directory)
    lock = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # another process is at it
        return _retire(directory)
    finally:
        os.close(lock)


def _retire(directory: Path) -> int:
    retired = directory / RETIRED
    totals = Totals()
    try:
        for name in _merged(retired):
            (directory / name).unlink(missing_ok=True)
        with _opened(retired) as (data, _):
            totals.add(_records(data), alive=False)
    except FileNotFoundError:
        pass
    except _Broken:
        return 0  # told by whoever reads it; nothing is put in its place
    gone = []
    for path in directory.glob(f"*{SUFFIX}"):
        if path == retired:
            continue
        with contextlib.suppress(FileNotFoundError, _Broken), _opened(path) as (data, alive):
            if not alive:
                totals.add(list(_records(data)), alive=False)
                gone.append(path.name)
    for path in directory.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 60:
                path.unlink()
    if not gone:
        return 0
    body = [record_bytes(orjson.dumps({"merged": gone}), [])]
    body += [record_bytes(name, one.values) for name, one in totals.series.items()]
    size = HEAD.size + sum(map(len, body))
    part = directory / f"{RETIRED}.{os.getpid()}.part"
    with part.open("wb") as file:
        file.write(HEAD.pack(MAGIC, VERSION, HEAD.size, os.getpid(), time.time(), size))
        file.writelines(body)
        file.flush()
        os.fsync(file.fileno())
    part.rename(retired)
    for name in gone:
        (directory / name).unlink(missing_ok=True)
    return len(gone)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[memoryview, bool]]:
    """A file's bytes in place, and whether its process lives."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            alive = False
        except BlockingIOError:
            alive = True
        size = os.fstat(descriptor).st_size
        if size < HEAD.size:
            raise _Broken(f"{size} bytes are no head")
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as whole:
            view = memoryview(whole)
            try:
                yield view, alive
            finally:
                view.release()
    finally:
        os.close(descriptor)


def _records(data: memoryview) -> Iterator[tuple[bytes, Series]]:
    """The series of one file. Raises _Broken for what is not one, before any of it is given."""
    return iter([(name, one) for name, one in _walk(data) if one is not None])


def _walk(data: memoryview) -> Iterator[tuple[bytes, Series | None]]:
    magic, version, head, _, _, used = HEAD.unpack_from(data)
    if magic != MAGIC:
        raise _Broken("not a file of counters")
    if version != VERSION:
        raise _Broken(f"version {version}; this is Tidemill's version {VERSION}")
    if head != HEAD.size or not head <= used <= len(data) or used % 8:
        raise _Broken(f"{used} bytes used of {len(data)}")
    at = head
    while at < used:
        if used - at < RECORD.size:
            raise _Broken(f"a record at {at} is cut off")
        size, name_size, values, crc = RECORD.unpack_from(data, at)
        start = at + size - 8 * values
        if size > used - at or size % 8 or RECORD.size + name_size > size - 8 * values:
            raise _Broken(f"a record at {at} does not fit")
        name = bytes(data[at + RECORD.size : at + RECORD.size + name_size])
        if zlib.crc32(name) != crc:
            raise _Broken(f"the name of the record at {at} is damaged")
        told = _told(name)
        numbers = struct.unpack_from(f"<{values}d", data, start)
        yield name, None if told is None else Series(*told, list(numbers))
        at += size


@lru_cache(maxsize=1 << 14)
def _told(name: bytes) -> tuple[str, Kind, tuple[float, ...], dict[str, str]] | None:
    """What a record says of its series; None for the one that names files. The same names come again at each look."""
    told = orjson.loads(name)
    if "merged" in told:
        return None
    return told["family"], Kind(told["kind"]), tuple(told["edges"]), told["labels"]


def _merged(retired: Path) -> set[str]:
    """The files whose numbers are in the retired one."""
    with _opened(retired) as (data, _):
        for name, one in _walk(data):
            if one is None:
                return set(orjson.loads(name)["merged"])
    return set()


def _stamp(directory: Path) -> tuple[int, int]:
    """Changes whenever files were made one."""
    try:
        found = (directory / RETIRED).stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns
