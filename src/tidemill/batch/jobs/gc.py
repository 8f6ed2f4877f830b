"""What runs left behind, removed by age: stages nobody goes on with, uploads nobody completed, records of old runs.

A stage is removed under its own lock, which the driver of a living run holds: a run that lives loses nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from tidemill.batch.engines.aws_batch.records import root_of
from tidemill.batch.jobs.index import RunIndex, RunRecord, seen_now
from tidemill.batch.options import RUN_ID
from tidemill.batch.places import STORES, parse_place
from tidemill.batch.stage import HELD, OUTPUT, REPLACED, open_stage, remove_stage, strange
from tidemill.batch.targets.base import RUNS
from tidemill.batch.targets.files import FileTarget
from tidemill.errors import ConfigError, TidemillError

__all__ = ["Left", "collect", "duration"]

_DATABASES = ("postgresql", "postgres")
_STAGE = re.compile(rf"\.(?P<output>.+)\.tidemill-(?P<run>{RUN_ID.strip('^')})", re.DOTALL)
# What a stage holds from its first moment on; one whose removal was cut off holds nothing else.
_INSIDE = frozenset(
    {"lock", "plan.json", "manifest.json", "shards", "parts", "dead", "work", "notes", "spool", OUTPUT, REPLACED}
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a run left: `age` in seconds since it was last written. `kept` says why it stays, or is ""."""

    kind: str
    where: str
    age: float
    bytes: int = 0
    kept: str = ""


def duration(text: str) -> timedelta:
    """The age that `--older-than` says: `90s`, `30m`, `12h`, `7d`, `2w`. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhdw])", text)
    if found is None:
        raise ConfigError(f"--older-than {text!r}: expected a number and one of s, m, h, d, w, as 7d")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def collect(places: Sequence[str], older_than: timedelta, index: RunIndex, *, dry_run: bool) -> list[Left]:
    """Remove what is older, and tell of everything that was old enough, with why it stays where it does.

    Each of `places` is an output, a directory that outputs lie in, a prefix of a store, or a PostgreSQL table. Without
    any, it is where the runs of the index are, and their records. Raises ConfigError, RunError for a place that cannot
    be looked at.
    """
    records = {r.run_id: r for r in index.all()}
    named = list(places) or [p for r in records.values() for p in (r.stage, r.output) if p] + [os.curdir]
    found: list[Left] = []
    for place in dict.fromkeys(named):
        try:
            found += _looked(place, older_than, records, dry_run)
        except (TidemillError, OSError) as error:
            if places:
                raise
            # Records are of any version; what one of them names stands in nobody's way.
            told = error.strerror if isinstance(error, OSError) else error
            found.append(Left(kind="place", where=place, age=0.0, kept=f"cannot be looked at: {told}"))
    found = list({left.where: left for left in found}.values())
    if not places:
        found += _records(records.values(), older_than, index, dry_run)
    return found


def _looked(place: str, older_than: timedelta, records: Mapping[str, RunRecord], dry_run: bool) -> Iterator[Left]:
    parsed = parse_place(place)
    if parsed.scheme in STORES:
        yield from _in_store(place, older_than, records, dry_run)
    elif parsed.scheme in _DATABASES:
        yield from _in_database(place, older_than, records, dry_run)
    elif not parsed.scheme:
        yield from _below(Path(parsed.body).absolute(), older_than, records, dry_run)


def _below(path: Path, older_than: timedelta, records: Mapping[str, RunRecord], dry_run: bool) -> Iterator[Left]:
    """What was left beside an output, or in a directory of outputs."""
    beside = [e for e in _entries(path.parent) if e.name.startswith(f".{path.name}.")]
    for entry in [*beside, *_entries(path)]:
        named = _STAGE.fullmatch(entry.name)
        if named is None:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _stage(Path(entry.path), older_than, dry_run)
        elif entry.is_file(follow_symlinks=False):
            why = _waited_for(records.get(named["run"])) or _placed(Path(entry.path), named["output"], named["run"])
            yield from _ready(Path(entry.path), why, older_than, dry_run)
    own = [path] if path.parent.name == RUNS and not path.is_symlink() else []
    for stage in [*own, *(Path(e.path) for e in _entries(path / RUNS) if e.is_dir(follow_symlinks=False))]:
        yield from _stage(stage, older_than, dry_run)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return sorted(found, key=lambda e: e.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stage(path: Path, older_than: timedelta, dry_run: bool) -> Iterator[Left]:
    inside = {e.name for e in _entries(path)}
    if not (inside & {"lock", "plan.json"} or inside <= _INSIDE):
        return
    age = _age(path)
    if age is None or age < older_than.total_seconds():
        return
    left = Left(kind="stage", where=str(path), age=age, bytes=_size(path))
    other = strange(inside)
    if other is not None:
        yield msgspec.structs.replace(left, kept=f"holds {other}, which no run of this version has put there")
        return
    with _locked(path) as ours:
        # Once more, now that no driver can begin: one may have been at it just before.
        now = {e.name for e in _entries(path)}
        newer = _age(path) if "lock" in inside else age
        if not ours or now - {"lock"} != inside - {"lock"} or newer is None or newer < older_than.total_seconds():
            yield msgspec.structs.replace(left, kept="a run is going on in it")
        elif HELD in inside:
            yield msgspec.structs.replace(left, kept="held: publish or discard the run")
        elif REPLACED in inside and not _published(path):
            yield msgspec.structs.replace(
                left, kept="holds the output that it was replacing: resume or discard the run"
            )
        else:
            if not dry_run:
                remove_stage(path)
            yield msgspec.structs.replace(left, kept="cannot be removed" if not dry_run and path.exists() else "")


def _published(stage: Path) -> bool:
    """Whether there is an output beside a stage, as far as its name tells: without an exchange of names, a commit takes
    the old one into the stage first.
    """
    named = _STAGE.fullmatch(stage.name)
    return named is not None and stage.with_name(named["output"]).exists()


@contextmanager
def _locked(stage: Path) -> Iterator[bool]:
    """Hold a stage as its driver would; whether that was to be had."""
    try:
        # Where a removal was cut off there is none yet, and a driver may be about to make one.
        lock = os.open(stage / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except FileNotFoundError:  # the run has come to its end meanwhile
        yield False
        return
    ours = False
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.stat(stage / "lock").st_ino == os.fstat(lock).st_ino
    try:
        yield ours
    finally:
        os.close(lock)


def _ready(path: Path, why: str, older_than: timedelta, dry_run: bool) -> Iterator[Left]:
    """Dead letters or the manifest of a run that died at its commit, while they were made ready."""
    try:
        stat = path.lstat()
    except FileNotFoundError:  # asking for its run has put it in place
        return
    age = time.time() - stat.st_mtime
    if age < older_than.total_seconds():
        return
    if not why and not dry_run:
        path.unlink(missing_ok=True)
    yield Left(kind="made ready", where=str(path), age=age, bytes=stat.st_size, kept=why)


def _placed(path: Path, beside: str, run_id: str) -> str:
    """Why what was made ready may still be wanted: its run is published. "" where it is not."""
    name = beside.removesuffix(".dead.parquet").removesuffix(".manifest.json")
    output = path.with_name(name)
    if name != beside and output.is_file():
        with suppress(ConfigError):  # no output of ours has such a name
            if FileTarget(parse_place(str(output)), "create", ()).committed(run_id) is not None:
                return "its run is published: the same command with its run id puts it in place"
    return ""


def _in_store(uri: str, older_than: timedelta, records: Mapping[str, RunRecord], dry_run: bool) -> Iterator[Left]:
    """Below a prefix of a store: the stage of a run that is on record, else roots of runs on AWS Batch, uploads, and
    objects of an output that its manifest does not name.
    """
    from tidemill.batch.stores.left import abandoned_objects, remove_objects
    from tidemill.batch.stores.uploads import abandoned_uploads, abort_uploads

    now = datetime.now(UTC)
    staged = next((r for r in records.values() if r.stage == uri), None)
    if staged is not None and staged.engine != "aws_batch":
        yield from _object_stage(staged, older_than, now, dry_run)
        return
    if staged is not None:
        uri = root_of(uri)
    yield from _roots(uri, older_than, now, dry_run)
    uploads = abandoned_uploads(uri, older_than, now)
    if not dry_run:
        abort_uploads(uri, uploads)
    for upload in uploads:
        age = (now - upload.begun).total_seconds()
        yield Left(kind="upload", where=f"{uri}: {upload.key} ({upload.id[:12]})", age=age)
    for one in abandoned_objects(uri, older_than, now):
        where, age = f"{one.uri}/{one.entry.name}", (now - one.entry.modified).total_seconds()
        left = Left(kind="object", where=where, age=age, bytes=one.entry.size)
        why = _waited_for(records.get(one.run_id))
        if not why and not dry_run:
            remove_objects([one])
        yield msgspec.structs.replace(left, kept=why)


def _roots(uri: str, older_than: timedelta, now: datetime, dry_run: bool) -> Iterator[Left]:
    """Of runs on AWS Batch, which is asked whether they live."""
    from tidemill.batch.engines.aws_batch.left import left_roots, remove_roots

    for root in left_roots(uri, older_than, now):
        if not root.kept and not dry_run:
            remove_roots(uri, root)
        age, size = (now - root.modified).total_seconds(), sum(e.size for e in root.entries)
        yield Left(kind="run root", where=root.uri, age=age, bytes=size, kept=root.kept)


def _in_database(uri: str, older_than: timedelta, records: Mapping[str, RunRecord], dry_run: bool) -> Iterator[Left]:
    """What is staged beside a table of runs that were not committed and that no driver is connected for."""
    from tidemill.batch.databases.postgres_target import PostgresTarget

    place = parse_place(uri)
    target = PostgresTarget(place, "append", ())
    for run_id, age, size in target.staged(older_than):
        why = _waited_for(records.get(run_id))
        if not why and not dry_run:
            target.forget(run_id)
        yield Left(kind="staging", where=f"{place.shown}: {run_id}", age=age, bytes=size, kept=why)


def _object_stage(record: RunRecord, older_than: timedelta, now: datetime, dry_run: bool) -> Iterator[Left]:
    """The stage of a run in a store, where there is no lock to hold: what is on record says whether it lives."""
    from tidemill.batch.stores.objects import Objects

    entries = list(Objects(record.stage).list())
    if not entries:
        return
    age = (now - max(e.modified for e in entries)).total_seconds()
    if age < older_than.total_seconds():
        return
    left = Left(kind="stage", where=record.stage, age=age, bytes=sum(e.size for e in entries))
    why = _waited_for(record)
    if not why and not dry_run:
        open_stage(record.stage).remove()
    yield msgspec.structs.replace(left, kept=why)


def _waited_for(record: RunRecord | None) -> str:
    """Why what a run left is still wanted, by its record; "" where it is not."""
    if record is None:
        return ""
    if record.state == "held":
        return "held: publish or discard the run"
    return "its run is going on" if seen_now(record).under_way else ""


def _forgotten(record: RunRecord) -> bool:
    """Whether a run on AWS Batch, of whose end nobody has asked, has left nothing."""
    from tidemill.batch.engines.aws_batch.left import is_gone

    if record.engine != "aws_batch" or not record.under_way:
        return False
    with suppress(TidemillError):
        return is_gone(record.stage)
    return False


def _records(records: Iterable[RunRecord], older_than: timedelta, index: RunIndex, dry_run: bool) -> Iterator[Left]:
    """Records of runs that ended long ago; of each job the last one that was published is what the next one is compared
    with.
    """
    now = datetime.now(UTC)
    for record in records:
        age = (now - datetime.fromisoformat(record.updated_at)).total_seconds()
        if age < older_than.total_seconds():
            continue
        path = index.path(record.run_id)
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # somebody else collects, too
            continue
        left = Left(kind="record", where=str(path), age=age, bytes=size)
        last = index.last_done(record.job) if record.job else None
        why = "" if _forgotten(record) else _waited_for(record)
        if not why and last is not None and last.run_id == record.run_id:
            why = f"the last published run of {record.job}"
        if not why and not dry_run:
            index.remove(record.run_id)
        yield msgspec.structs.replace(left, kept=why)


def _age(stage: Path) -> float | None:
    """Seconds since anything was written in a stage; None where it is gone."""
    try:
        newest = stage.lstat().st_mtime
    except FileNotFoundError:
        return None
    for below in (stage, stage / "shards", stage / "parts", stage / "work", stage / "spool"):
        for entry in _entries(below):
            with suppress(FileNotFoundError):
                newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
    return max(0.0, time.time() - newest)


def _size(stage: Path) -> int:
    total = 0
    for base, _, names in os.walk(stage):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(base, name)).st_size
    return total
