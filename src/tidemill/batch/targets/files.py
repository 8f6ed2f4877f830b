"""Files: one file, or a directory of Parquet parts. All is put in place aside, then a single rename publishes it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa

from tidemill.batch.ledger import Sealed, aside, disk_refused, put_in_place, sync_directory, write_durably
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import DIRECTORY, Mode, Place, SinkPlace, sink_format
from tidemill.batch.plan import Plan
from tidemill.batch.sinks import sink
from tidemill.batch.sinks.arrow import read_arrow_stamp
from tidemill.batch.sinks.parquet import read_stamp
from tidemill.batch.stage import OUTPUT, REPLACED, LocalStage, Stage
from tidemill.batch.targets.assembly import Assembly
from tidemill.batch.targets.base import Guarantee, Publication
from tidemill.batch.targets.fence import Fence
from tidemill.errors import ConfigError, RunError, SinkError
from tidemill.model.package import digest_file
from tidemill.renames import exchange, rename_new

__all__ = ["FileTarget", "interrupted", "publish_directory", "put_back", "refused"]


class FileTarget:
    """A path of this machine: readers see the old output or the new one, never something between."""

    guarantee: Guarantee = "atomic"

    def __init__(self, place: Place, mode: Mode, key: tuple[str, ...]) -> None:
        del key
        if mode not in ("create", "overwrite"):
            raise ConfigError(f"output {place.shown}: files are created or overwritten as a whole, got mode {mode}")
        self._mode: Mode = mode
        self._format, self.directory = sink_format(place.body)
        self.path = Path(os.path.abspath(place.body))
        # Before anybody asks whether the run is committed: who is quicker after that is noticed.
        self.fence = Fence(self.path, directory=self.directory)

    def describe(self, run_id: str) -> SinkPlace:
        del run_id
        path = str(self.path)
        return SinkPlace(
            uri=path,
            mode=self._mode,
            format=self._format,
            passing=not self.directory,
            directory=self.directory,
            dead=f"{path}/{DIRECTORY}/dead" if self.directory else f"{path}.dead.parquet",
            manifest=str(self._manifest),
        )

    def stage(self, run_id: str) -> str:
        """On the file system of the output, so that a rename can publish."""
        return str(self.path.parent / f".{self.path.name}.tidemill-{run_id}")

    def committed(self, run_id: str) -> RunManifest | None:
        found = self._found(self._manifest)
        if not self.directory and (found is None or found.run_id != run_id):
            # A crash between the commit and the manifest's own place leaves it where it was made ready.
            found = self._found(aside(self._manifest, run_id))
            if found is not None:
                put_in_place(self._manifest, run_id)
        return found if found is not None and found.run_id == run_id else None

    def forget(self, run_id: str) -> None:
        """The run will never be committed: take away the manifest that was made ready."""
        aside(self._manifest, run_id).unlink(missing_ok=True)

    def allow(self) -> None:
        path = self.path
        if not path.exists():
            return
        if self._mode == "create":
            raise RunError(f"{path}: exists; choose another output, or pass --overwrite")
        if path.is_dir() != self.directory:
            raise RunError(f"{path}: is {'a directory' if path.is_dir() else 'a file'}; it is left alone")
        if self.directory and self._found(self._manifest) is None and any(path.iterdir()):
            raise RunError(
                f"{path}: is not an output of Tidemill (no {DIRECTORY}/manifest.json); it is left alone; "
                "remove it yourself"
            )

    def check(self, schema: pa.Schema) -> None:
        reason = sink(self._format).check(schema)
        if reason is not None:
            raise ConfigError(f"output {self.path}: {reason}")

    def publication(self, plan: Plan, stage: Stage, schema: pa.Schema) -> Publication:
        if not self.directory:
            return _File(self, plan, stage, schema)
        if not isinstance(stage, LocalStage):
            raise ConfigError(f"output {self.path}: a directory needs a stage beside it, got {stage.where}")
        return _Directory(self, stage.path)

    @property
    def overwrites(self) -> bool:
        return self._mode == "overwrite"

    def overtaken(self, run_id: str) -> RunManifest:
        """Somebody else was first: another driver of this run, whose commit is as good, or else RunError."""
        found = self.committed(run_id)
        if found is None:
            if self.overwrites:
                told = "was replaced while the run was going; nothing was changed; resume to replace what is there now"
            else:
                told = "appeared while the run was going; move it away, or pass --overwrite, and resume"
            raise RunError(f"{self.path}: {told}")
        return found

    @property
    def _manifest(self) -> Path:
        """Where the manifest of a committed output lies: inside a directory, beside a file."""
        return self.path / DIRECTORY / "manifest.json" if self.directory else Path(f"{self.path}.manifest.json")

    def _found(self, place: Path) -> RunManifest | None:
        """The manifest at a place, if it is that of the output that is there now.

        A directory carries its manifest inside. A file must be the one its manifest names: by the run id inside it
        (Parquet, Arrow), by its SHA-256 (CSV, JSON lines).
        """
        try:
            manifest = msgspec.json.decode(place.read_bytes(), type=RunManifest)
        except (OSError, msgspec.DecodeError):
            return None
        if self.directory:
            return manifest
        path = self.path
        if not path.is_file() or len(manifest.parts) != 1 or path.stat().st_size != manifest.parts[0].bytes:
            return None
        read = {"parquet": read_stamp, "arrow": read_arrow_stamp}.get(self._format)
        if read is not None:
            stamp = read(path)
            ours = stamp is not None and msgspec.json.decode(stamp).get("run_id") == manifest.run_id
            return manifest if ours else None
        return manifest if digest_file(path) == manifest.parts[0].sha256 else None


class _Directory:
    """The stage's sealed parts become the directory: one that no worker knows, so that an attempt which came second, on
    a machine that is cut off from the driver, cannot add a file to it.
    """

    def __init__(self, target: FileTarget, stage: Path) -> None:
        self._target, self._stage = target, stage

    def add(self, marker: Sealed) -> None:
        """They are taken over all at once."""

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        parts, own = self._stage / "parts", self._stage / OUTPUT
        names = {m.part.name for m in sealed}
        try:
            if not interrupted(self._stage, self._target.path) and not _linked(parts, own, names):
                _keep_only(parts, names)
            directory = own if own.exists() else parts
            return publish_directory(directory, self._target, manifest, sealed, self._stage)
        except OSError as error:
            raise refused(manifest, error) from error

    def abandon(self) -> None:
        """Nothing is held."""


def publish_directory(
    parts: Path, target: FileTarget, manifest: RunManifest, sealed: Sequence[Sealed], stage: Path
) -> RunManifest:
    """Make a directory of parts the output, with manifest and dead letters inside, by one rename: the manifest that is
    there afterwards. Raises OSError, RunError.
    """
    path, old = target.path, stage / REPLACED
    if interrupted(stage, path):
        with target.fence.held() as passed:
            if not passed:
                return target.overtaken(manifest.run_id)
            os.rename(parts, path)
            sync_directory(path.parent)
        return msgspec.json.decode((path / DIRECTORY / "manifest.json").read_bytes(), type=RunManifest)
    inside = parts / DIRECTORY
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    if manifest.dead and manifest.plan.job.dead_letters is None:
        _link_dead(sealed, stage, inside / "dead")
    write_durably(inside / "manifest.json", msgspec.json.encode(manifest))
    sync_directory(inside)
    sync_directory(parts)
    with target.fence.held() as passed:
        if not passed:
            return target.overtaken(manifest.run_id)
        if target.overwrites and path.exists():
            if not exchange(parts, path):
                # No exchange on this file system: for an instant readers find neither the old nor the new.
                os.rename(path, old)
                os.rename(parts, path)
        else:
            rename_new(parts, path)
        sync_directory(path.parent)
    return manifest


def interrupted(stage: Path, target: Path) -> bool:
    """Whether a commit without an exchange was cut off between its two renames: the old output lies in the stage."""
    return (stage / REPLACED).exists() and not target.exists()


def put_back(stage: Path, target: Path) -> None:
    """Undo a commit that was cut off so: the old output returns to its place. Raises SinkError."""
    if not interrupted(stage, target):
        return
    try:
        os.rename(stage / REPLACED, target)
        sync_directory(target.parent)
    except OSError as error:
        raise SinkError(f"{target}: cannot be put back from {stage / REPLACED}: {error.strerror}") from error


class _File:
    """Parts are joined, in their order, while others are still scored."""

    def __init__(self, target: FileTarget, plan: Plan, stage: Stage, schema: pa.Schema) -> None:
        self._target = target
        self._joined = Assembly(plan, stage, schema)

    def add(self, marker: Sealed) -> None:
        self._joined.add(marker)

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        del sealed
        try:
            return self._commit(manifest)
        except OSError as error:
            raise refused(manifest, error) from error

    def abandon(self) -> None:
        self._joined.abandon()

    def _commit(self, manifest: RunManifest) -> RunManifest:
        plan, path = manifest.plan, self._target.path
        record = msgspec.structs.replace(manifest, parts=(self._joined.finish(),))
        beside = Path(plan.job.sink.manifest)
        with self._target.fence.held() as passed:
            if not passed:
                return self._target.overtaken(plan.run_id)
            write_durably(aside(beside, plan.run_id), msgspec.json.encode(record))
            if self._target.overwrites:
                os.rename(self._joined.path, path)
            else:
                rename_new(self._joined.path, path)
            sync_directory(path.parent)
            put_in_place(beside, plan.run_id)
        return record


def refused(manifest: RunManifest, error: OSError) -> RunError | SinkError:
    """What the disk said at the commit, as an error of ours."""
    if isinstance(error, FileExistsError):
        return RunError(
            f"{error.filename}: appeared while the run was going; move it away, or pass --overwrite, and resume"
        )
    return disk_refused(manifest.plan.job.sink.uri, error)


def _keep_only(directory: Path, names: set[str]) -> None:
    for path in directory.iterdir():
        if path.name not in names and path.name != DIRECTORY:
            path.unlink()


def _linked(parts: Path, own: Path, names: set[str]) -> bool:
    """Whether the file system has hard links: then these parts have names in a directory of their own, too, and a crash
    leaves them to be found where they were.
    """
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    try:
        for name in names:
            os.link(parts / name, own / name)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        shutil.rmtree(own)
        return False
    return True


def _link_dead(sealed: Sequence[Sealed], stage: Path, place: Path) -> None:
    """Hard links: until the run is published, the ledger keeps its own names for them."""
    place.mkdir()
    for marker in sealed:
        if marker.dead is not None:
            _link(stage / "dead" / marker.dead.name, place / marker.dead.name)
    sync_directory(place)


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, place)
        with open(place, "rb") as file:
            os.fsync(file.fileno())
