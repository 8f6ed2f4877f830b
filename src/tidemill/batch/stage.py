"""The stage: where a run keeps its plan and what is sealed until its output is published.

plan.json    what the run is
notes/       how far workers on other machines say they are; means nothing to a resume
shards/      a marker for each sealed shard: its counts, and the checksums of what holds its rows
parts/       sealed parts
dead/        sealed dead letters
spool/       a copy of an input that cannot be read in place
output/      what becomes the output, when that is a directory: rows by partition, or the parts under second names
replaced/    the old output, where no file system exchanges it for the new one in one step
work/        what is being written; means nothing to a resume
held.json    the run is complete, and waits for somebody's decision
lock         held by the one driver; comes first and goes last, so that a directory without it is nobody's stage
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.inputs import Found
from tidemill.batch.ledger import PartFile, Sealed, decode_kept, sync_directory, write_durably
from tidemill.batch.places import SourceFormat
from tidemill.batch.plan import Plan
from tidemill.batch.sinks import sink
from tidemill.errors import ConfigError, RunError

__all__ = [
    "HELD",
    "OUTPUT",
    "REPLACED",
    "Kind",
    "LocalStage",
    "Stage",
    "not_a_stage",
    "open_stage",
    "remove_stage",
    "strange",
]

Kind = Literal["parts", "dead"]
HELD = "held.json"
REPLACED = "replaced"
OUTPUT = "output"
_FILES = ("plan.json", "manifest.json", HELD)
_DIRECTORIES = ("shards", "parts", "dead", "work", "notes", "spool", OUTPUT, REPLACED)
_OWN = frozenset({"lock", *_FILES, *(f"{name}.new" for name in _FILES), *_DIRECTORIES})
# Out of the way, to be removed.
_ASIDE = re.compile(r"work-[0-9a-f]{8}\Z")


class Stage(Protocol):
    """Keeps what a run has sealed. `where` is a directory or a URI, by which another process can open it."""

    where: str

    @property
    def spool(self) -> Path:
        """A directory of this machine for a copy of what cannot be read in place, kept for resumes."""
        ...

    def share(self, found: Found) -> Found:
        """What was found, where all that open this stage can read it: a spool may lie on one machine only."""
        ...

    def shared(self) -> Found | None:
        """What an earlier execution has shared so, or None."""
        ...

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one driver of the run. Raises RunError where another is, ConfigError where something else lies."""
        ...

    def work(self) -> Path:
        """A directory of this machine for what is being written."""
        ...

    def clean(self) -> None:
        """Throw away what earlier executions left half written."""
        ...

    def forget(self) -> None:
        """Throw away what is sealed and copied: without its plan nobody knows of what."""
        ...

    def keep(self, kind: Kind, path: Path, name: str) -> None:
        """Make a written file durable under that name. Raises OSError as the disk does, or SinkError."""
        ...

    def mark(self, marker: Sealed) -> Sealed:
        """Seal a shard. The first marker counts: whoever comes later gets that one back."""
        ...

    def sealed(self, plan: Plan) -> dict[int, Sealed]:
        """The shards that are sealed, each with its files found whole. Other markers are taken away."""
        ...

    def fetch(self, kind: Kind, name: str) -> Path:
        """A path of this machine with the bytes of a kept file."""
        ...

    def rows(self, kind: Kind, part: PartFile, format_: SourceFormat) -> int:
        """The rows that a kept file holds, as it tells itself."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Keep a small file, as a whole or not at all. Raises SinkError."""
        ...

    def get(self, name: str) -> bytes | None:
        """A small file, or None where there is none."""
        ...

    def note(self, name: str, data: bytes) -> None:
        """Say how something stands that is under way, in place of what was said of it; it may get lost. `name` is a
        directory of notes and a name in it.
        """
        ...

    def notes(self, below: str) -> dict[str, bytes]:
        """What was noted in a directory of notes, by name."""
        ...

    def remove(self) -> None:
        """Take everything away: the output holds the truth now."""
        ...

    def remove_unused(self) -> None:
        """Take everything away if it is nothing that a resume would keep or a person would look at."""
        ...


def open_stage(where: str) -> Stage:
    """The stage that lies there. Raises ConfigError or MissingExtra where a store cannot be opened."""
    if remote(where):
        from tidemill.batch.stores.stage import ObjectStage

        return ObjectStage(where)
    return LocalStage(Path(where))


def strange(names: Iterable[str]) -> str | None:
    """A name among those at the top of a stage that no run has put there; None where there is none."""
    return min((n for n in names if n not in _OWN and not _ASIDE.match(n)), default=None)


def not_a_stage(where: str, name: str) -> ConfigError:
    """The error for a place that holds something else: a run would take it away at its end."""
    return ConfigError(f"{where}: is no stage of a run: it holds {name}; choose an empty directory, or a new one")


def remove_stage(path: Path) -> None:
    """Take away what a run keeps in a directory, the lock last: until then no driver takes it for one that it can go on
    with. What no run has put there stays. Somebody else may be removing it, too.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as found:
        for entry in list(found):
            if strange([entry.name]) is None and entry.name != "lock":
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # what may not be removed, or a run that has begun anew in it
        (path / "lock").unlink(missing_ok=True)
        path.rmdir()


class LocalStage:
    """A directory, on the file system of the output where a rename is to publish it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)
        self.spool = path / "spool"

    def share(self, found: Found) -> Found:
        return found

    def shared(self) -> Found | None:
        return None

    @contextmanager
    def held(self) -> Iterator[None]:
        lock = self._hold()
        try:
            for name in ("shards", "parts", "dead", "work", "notes"):
                (self.path / name).mkdir(exist_ok=True)
            yield
        finally:
            os.close(lock)

    def _hold(self) -> int:
        """Raises ConfigError for a directory of somebody else's, before anything of it is touched."""
        while True:
            names = _names(self.path)
            other = strange(names)
            if other is None and names and not (self.path / "lock").is_file():
                other = min(names)
            if other is not None:
                raise not_a_stage(str(self.path), other)
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:  # its last driver has just finished and removed it
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise RunError(
                    f"{self.path.name}: another process is driving this run; let it finish, or use another run id"
                ) from None
            if self._still_there(lock):
                return lock
            os.close(lock)

    def _still_there(self, lock: int) -> bool:
        try:
            return os.stat(self.path / "lock").st_ino == os.fstat(lock).st_ino
        except FileNotFoundError:
            return False

    def work(self) -> Path:
        return self.path / "work"

    def clean(self) -> None:
        for name in ("work", "notes"):
            # Out of the way first: workers of a driver that was killed may still be writing.
            aside = self.path / f"work-{secrets.token_hex(4)}"
            os.rename(self.path / name, aside)
            (self.path / name).mkdir()
            shutil.rmtree(aside, ignore_errors=True)

    def forget(self) -> None:
        # Markers first: without them the rest means nothing.
        for name in ("shards", "parts", "dead", "spool"):
            for file in _names(self.path / name):
                (self.path / name / file).unlink()

    def keep(self, kind: Kind, path: Path, name: str) -> None:
        os.rename(path, self.path / kind / name)
        sync_directory(self.path / kind)

    def mark(self, marker: Sealed) -> Sealed:
        path = self._marker(marker.shard)
        # Beside the parts' own names, so that two attempts at one shard never write the same file.
        aside = path.with_name(f"{path.name}.{marker.part.name}")
        write_durably(aside, msgspec.json.encode(marker))
        try:
            os.link(aside, path)
            sync_directory(path.parent)
        except FileExistsError:
            return decode_kept(path.read_bytes(), Sealed, str(path))
        except OSError:  # a file system without hard links has no second driver's attempts either
            os.rename(aside, path)
            sync_directory(path.parent)
        finally:
            aside.unlink(missing_ok=True)
        return marker

    def sealed(self, plan: Plan) -> dict[int, Sealed]:
        found: dict[int, Sealed] = {}
        for shard in plan.shards:
            path = self._marker(shard.index)
            try:
                marker = decode_kept(path.read_bytes(), Sealed, str(path))
            except FileNotFoundError:
                continue
            except (RunError, OSError):
                marker = None
            if marker is not None and marker.shard == shard.index and self._whole(marker):
                found[shard.index] = marker
            else:
                path.unlink()
        return found

    def _marker(self, shard: int) -> Path:
        return self.path / "shards" / f"{shard:05d}.json"

    def _whole(self, marker: Sealed) -> bool:
        return _holds(self.path / "parts", marker.part) and (
            marker.dead is None or _holds(self.path / "dead", marker.dead)
        )

    def fetch(self, kind: Kind, name: str) -> Path:
        return self.path / kind / name

    def rows(self, kind: Kind, part: PartFile, format_: SourceFormat) -> int:
        return sink(format_).count(self.path / kind / part.name)

    def put(self, name: str, data: bytes) -> None:
        write_durably(self.path / name, data)

    def get(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return (self.path / name).read_bytes()
        return None

    def note(self, name: str, data: bytes) -> None:
        path = self.path / "notes" / name
        aside = path.with_name(f"{path.name}.new")
        # Where the stage is gone, the run is over: nothing of it comes back.
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            aside.write_bytes(data)
            os.rename(aside, path)

    def notes(self, below: str) -> dict[str, bytes]:
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.path / "notes" / below):
                if not entry.name.endswith(".new"):
                    found[entry.name] = Path(entry.path).read_bytes()
        return found

    def remove(self) -> None:
        remove_stage(self.path)

    def remove_unused(self) -> None:
        for name in ("shards", "dead", "spool", OUTPUT, REPLACED):
            if (self.path / name).is_dir() and any((self.path / name).iterdir()):
                return
        self.remove()


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _holds(directory: Path, part: PartFile) -> bool:
    path = directory / part.name
    if "/" in part.name or not path.is_file() or path.stat().st_size != part.bytes:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == part.sha256
