"""A model repository on disk: NAME/VERSION/ are packages, or NAME/ is one. Looked at, never written to."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tidemill.errors import ConfigError, TidemillError
from tidemill.model.manifest import MANIFEST
from tidemill.model.package import digest_file, read_manifest
from tidemill.realtime.models.desired import Wanted
from tidemill.realtime.models.options import NAME

__all__ = ["Found", "find_models", "wanted_of"]

Place = tuple[str, str]
"""A model's name and version, as its directories are called."""


@dataclass(frozen=True, slots=True)
class Found:
    """A directory that should be a package. `stamp` changes when any of its files does; `wanted` is None, and `reason`
    says why, where it is not one.
    """

    directory: Path
    stamp: str
    wanted: Wanted | None
    reason: str = ""


def find_models(root: Path, before: Mapping[Place, Found]) -> dict[Place, Found]:
    """Every model version below `root`; what has not changed since `before` is not read again.

    Raises ConfigError if there is no such directory.
    """
    found: dict[Place, Found] = {}
    try:
        models = sorted(_directories(root))
    except OSError as error:
        raise ConfigError(f"repository {root}: {error.strerror}") from None
    known = {one.directory: one for one in before.values()}
    for model in models:
        try:
            if (model / MANIFEST).is_file():
                one = _look(model, model.name, None, known)
                found[model.name, one.wanted.version if one.wanted else "?"] = one
            else:
                for version in sorted(_directories(model)):
                    found[model.name, version.name] = _look(version, model.name, version.name, known)
        except OSError:
            continue  # it went away while it was looked at
    return found


def wanted_of(directory: str | os.PathLike[str]) -> Wanted:
    """What a package says it is; its files are not looked at. Raises ConfigError or PackageError."""
    root = Path(directory).resolve()
    manifest = read_manifest(root)
    return Wanted(
        name=manifest.name, version=manifest.version, directory=str(root), digest=digest_file(root / MANIFEST)
    )


def _look(directory: Path, name: str, version: str | None, known: Mapping[Path, Found]) -> Found:
    stamp = _stamp(directory)
    before = known.get(directory)
    if before is not None and before.stamp == stamp:
        return before
    if not (directory / MANIFEST).is_file():
        return Found(directory, stamp, None, f"incomplete: there is no {MANIFEST} yet")
    try:
        wanted = wanted_of(directory)
    except TidemillError as error:
        return Found(directory, stamp, None, str(error))
    if wanted.name != name:
        return Found(directory, stamp, None, f"the package's name is {wanted.name!r}, its directory's {name!r}")
    if version is not None and wanted.version != version:
        return Found(
            directory, stamp, None, f"the package's version is {wanted.version!r}, its directory's {version!r}"
        )
    return Found(directory, stamp, wanted)


def _stamp(directory: Path) -> str:
    seen = hashlib.sha256()
    for base, _, files in os.walk(directory):
        for file in sorted(files):
            path = os.path.join(base, file)
            status = os.lstat(path)
            seen.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}\n".encode(errors="replace"))
    return seen.hexdigest()


def _directories(root: Path) -> Iterator[Path]:
    with os.scandir(root) as entries:
        # Others, as .staging and lost+found, are no models or versions.
        yield from (Path(one.path) for one in entries if re.match(NAME, one.name) and one.is_dir())
