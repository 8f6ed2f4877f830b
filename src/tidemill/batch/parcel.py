"""A package on its way to the workers of another engine: one archive, checked and loaded once by each process."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from tidemill.errors import PackageError
from tidemill.model.manifest import MANIFEST
from tidemill.model.package import open_package
from tidemill.prediction.live import Live

__all__ = ["Parcel", "pack", "unpacked"]

# 1980 is where a zip's time begins: the same package is the same archive, whenever it is packed.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_UNUSED_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a worker must know of a package to answer as the driver would. `place` is a name for its files, which no
    other package has.
    """

    place: str
    package: str
    fingerprint: str
    runtime: str
    call_rows: int | None

    def open(self, directory: Path) -> Live:
        """Load the package that was unpacked there, every digest checked: the first time in this process.

        Raises PackageError where it would answer otherwise than the driver's, and what `Live.open` raises.
        """
        return _loaded(self, directory)


def pack(live: Live) -> tuple[Parcel, bytes]:
    """The package of a model that the driver has loaded, and its archive (zip, not compressed)."""
    package = live.package
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in (MANIFEST, *sorted(package.manifest.files)):
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), package.path(name).read_bytes())
    data = out.getvalue()
    place = f"tidemill-{hashlib.sha256(data).hexdigest()[:32]}"
    name = f"{package.name} {package.version}"
    return Parcel(place, name, live.fingerprint, live.runtime.version, live.call_rows), data


def unpacked(parcel: Parcel, archive: bytes | memoryview) -> Path:
    """Where the parcel's files lie on this machine: put there by the first of the user's processes that asks.

    Raises PackageError where the directory for it is not the user's own.
    """
    root = Path(tempfile.gettempdir()) / f"tidemill-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PackageError(f"{root}: is not a directory that only this user may write to; remove it, or set TMPDIR")
    place = root / parcel.place
    if not place.is_dir():
        _forget_unused(root)
        aside = Path(tempfile.mkdtemp(dir=root))
        with zipfile.ZipFile(BytesIO(archive)) as packed:
            packed.extractall(aside)
        try:
            os.rename(aside, place)
        except OSError:  # another process was first
            shutil.rmtree(aside)
    os.utime(place)
    return place


def _forget_unused(root: Path) -> None:
    for old in root.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(old, ignore_errors=True)


@lru_cache(maxsize=4)
def _loaded(parcel: Parcel, directory: Path) -> Live:
    live = Live.open(open_package(directory), call_rows=parcel.call_rows)
    if live.fingerprint != parcel.fingerprint:
        raise PackageError(
            f"{parcel.package}: this worker runs it with {live.runtime.version}, the driver with {parcel.runtime}; "
            "answers could differ: install the same versions on every machine"
        )
    return live
