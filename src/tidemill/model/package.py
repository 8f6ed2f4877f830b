"""A package on disk: opened with every digest checked, written as a whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tomli_w

from tidemill.config import decode, load_toml
from tidemill.errors import ConfigError, IntegrityError, PackageError
from tidemill.model.manifest import FORMAT, MANIFEST, Manifest
from tidemill.renames import exchange

__all__ = ["SIGNATURE_FILE", "Package", "digest_file", "open_package", "read_manifest", "write_package"]

SIGNATURE_FILE = "model.sig"


@dataclass(frozen=True, slots=True)
class Package:
    """One model version on disk, verified when it was opened."""

    directory: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    def path(self, name: str) -> Path:
        """The absolute path of one of the package's files."""
        return self.directory / name

    def fingerprint(self, runtime_version: str) -> str:
        """SHA-256 (hex) of what can change an answer: signature, artefacts, transform, runtime and its version.

        The samples, the profile, the SLO and the description are left out: they can change without changing an answer.
        """
        m = self.manifest
        files = {k: v for k, v in m.files.items() if k not in (m.samples, m.profile)}
        parts = {
            "format": m.format,
            "inputs": m.inputs,
            "outputs": m.outputs,
            "runtime": m.runtime,
            "runtime_version": runtime_version,
            "transform": m.transform,
            "requirements": m.requirements,
            "files": files,
        }
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def open_package(directory: str | os.PathLike[str]) -> Package:
    """Open a package, checking the digest of every file.

    Raises ConfigError for a manifest that cannot be understood, IntegrityError for a file that is missing,
    changed or not in the manifest, PackageError where there is no package at all.
    """
    root = Path(directory).resolve()
    manifest = read_manifest(root)
    _verify(root, manifest)
    return Package(root, manifest)


def read_manifest(root: Path) -> Manifest:
    """What a package says of itself; its files are not looked at.

    Raises ConfigError for a manifest that cannot be understood, PackageError where there is no package at all.
    """
    if not (root / MANIFEST).is_file():
        raise PackageError(f"{root}: not a model package (no {MANIFEST}); make one with `tidemill package`")
    try:
        manifest = load_toml(root / MANIFEST, Manifest)
    except ConfigError:
        _refuse_newer(root)
        raise
    problems = manifest.problems()
    if problems:
        raise ConfigError([f"{MANIFEST}: {p}" for p in problems])
    return manifest


def write_package(
    directory: str | os.PathLike[str],
    manifest: Manifest,
    fill: Callable[[Path], None],
    *,
    overwrite: bool = False,
) -> Package:
    """Write a package: `fill` puts its files into a temporary directory beside the target, their digests are
    taken, the manifest is written last and the directory is renamed into place (or exchanged with the old one).

    Raises PackageError if the target exists and `overwrite` is off, or is not a package.
    """
    target = Path(directory).resolve()
    if target.exists() and not overwrite:
        raise PackageError(f"{directory} exists; choose another --out, or pass --overwrite")
    if target.exists() and not target.is_dir():
        raise PackageError(f"{directory} is a file; choose another --out")
    if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise PackageError(f"{directory} is not a model package; it is left alone")
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        stage.chmod(0o755)
        fill(stage)
        manifest = msgspec.structs.replace(
            manifest, files={f: digest_file(stage / f) for f in _files(stage) if f != MANIFEST}
        )
        # What could not be opened again is not written.
        problems = decode(msgspec.to_builtins(manifest), Manifest, MANIFEST).problems()
        if problems:
            raise ConfigError([f"{MANIFEST}: {p}" for p in problems])
        # A table in which everything has its default says nothing to its reader.
        told = {key: value for key, value in msgspec.to_builtins(manifest).items() if value != {}}
        (stage / MANIFEST).write_text(tomli_w.dumps(told), encoding="utf-8")
        if not target.exists():
            os.rename(stage, target)
        elif not exchange(stage, target):
            # No exchange on this file system: for an instant readers find no package.
            old = stage.with_name(f"{stage.name}.old")
            os.rename(target, old)
            os.rename(stage, target)
            os.rename(old, stage)
        # What stood there is now the stage, and goes with it.
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Package(target, manifest)


def digest_file(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_newer(root: Path) -> None:
    """A package of a later format has keys unknown here; that it is later is what to say."""
    with open(root / MANIFEST, "rb") as file:
        try:
            found = tomllib.load(file).get("format")
        except (UnicodeDecodeError, tomllib.TOMLDecodeError):
            return
    if type(found) is int and found > FORMAT:
        raise PackageError(
            f"{root.name}/{MANIFEST}: format {found} is newer than this Tidemill reads ({FORMAT}); upgrade tidemill, "
            "or package the model anew"
        )


def _verify(root: Path, manifest: Manifest) -> None:
    present = set(_files(root)) - {MANIFEST, SIGNATURE_FILE}
    for name in sorted(manifest.files.keys() - present):
        raise IntegrityError(f"{root.name}/{name}: named in {MANIFEST}, but missing")
    for name in sorted(present - manifest.files.keys()):
        raise IntegrityError(f"{root.name}/{name}: not named in {MANIFEST}; remove it or package the model anew")
    for name, expected in manifest.files.items():
        path = root / name
        if path.is_symlink() or not path.is_file() or not path.resolve().is_relative_to(root):
            raise IntegrityError(f"{root.name}/{name}: not a plain file; links are not followed")
        found = digest_file(path)
        if found != expected:
            raise IntegrityError(
                f"{root.name}/{name}: its SHA-256 is {found[:12]}…, {MANIFEST} says {expected[:12]}…; "
                "the file was changed after packaging"
            )


def _files(root: Path) -> list[str]:
    found = []
    for base, directories, names in os.walk(root):
        # A linked directory is not entered, and counts as the one entry it is.
        links = [d for d in directories if os.path.islink(os.path.join(base, d))]
        found += [(Path(base) / n).relative_to(root).as_posix() for n in [*names, *links]]
    return sorted(found)
