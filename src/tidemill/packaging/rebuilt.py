"""A package made of another one: its signature, transform and promises around another artefact."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tidemill.errors import PackageError
from tidemill.model.manifest import Manifest, Optimised, Origin, RuntimeSpec
from tidemill.model.package import Package, write_package
from tidemill.packaging.onnx_file import read_onnx_file
from tidemill.packaging.options import PackageReport
from tidemill.packaging.sealing import Said, seal
from tidemill.packaging.table import LikeTable

__all__ = ["Rebuilt", "rebuild", "try_rebuilt"]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What stands in place of an artefact: what runs it, what writes it into a directory, what was done in a few words,
    what the tools were, and why the rows of one call depend on each other, if they do.
    """

    runtime: RuntimeSpec
    fill: Callable[[Path], None]
    how: str
    tools: Mapping[str, str] = field(default_factory=dict)
    rows_dependent: str = ""


def try_rebuilt(parent: Package, rebuilt: Rebuilt, directory: Path) -> Package:
    """The package as it would be, without samples and not measured: to be tried, and thrown away."""
    manifest = msgspec.structs.replace(_manifest(parent, rebuilt), samples=None)
    return write_package(directory, manifest, _filled(parent, rebuilt))


def rebuild(
    parent: Package,
    rebuilt: Rebuilt,
    out: str | os.PathLike[str],
    *,
    version: str,
    table: LikeTable,
    optimised: Optimised,
    overwrite: bool = False,
) -> PackageReport:
    """Write the package `out` as `package_model` would: samples answered anew, call sizes compared on the table's rows.

    A tolerance of the parent stays where none greater is measured. Raises PackageError (what fails, `out` exists) and
    ConfigError (a version that is none); nothing is left at `out` then.
    """
    target = Path(out)
    if target.exists() and not overwrite:
        raise PackageError(f"{out} exists; choose another --out, or pass --overwrite")
    manifest = msgspec.structs.replace(_manifest(parent, rebuilt), version=version, optimised=optimised, samples=None)
    said = Said({}, rows_dependent=rebuilt.rows_dependent)
    apart = ", ".join(f"{name} {apart:.2g}" for name, apart in optimised.differences.items())
    notes = (
        f"{rebuilt.how}, from version {parent.version} (fingerprint {optimised.parent[:12]}…)",
        f"greatest difference to it on {optimised.rows} rows: {apart}",
    )
    target.resolve().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tidemill-", dir=target.resolve().parent) as work:
        fill = _filled(parent, rebuilt)
        sealed = seal(manifest, fill, target, table, Path(work), said, notes, overwrite=overwrite)
    return PackageReport(sealed.package, sealed.notes, optimised.differences, sealed.differences)


def _manifest(parent: Package, rebuilt: Rebuilt) -> Manifest:
    old = parent.manifest
    origin = old.origin or Origin(kind=old.runtime.name, file=old.runtime.artifact, sha256="")
    return msgspec.structs.replace(
        old,
        runtime=rebuilt.runtime,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows_independent=old.rows_independent and not rebuilt.rows_dependent,
        origin=msgspec.structs.replace(origin, tools={**origin.tools, **rebuilt.tools}),
    )


def _filled(parent: Package, rebuilt: Rebuilt) -> Callable[[Path], None]:
    """What writes the new artefact, and beside it the parent's files that belong neither to the old one nor to its
    samples.
    """
    manifest = parent.manifest
    left = {manifest.runtime.artifact, manifest.samples}
    if manifest.runtime.name == "onnx":
        left |= read_onnx_file(parent.path(manifest.runtime.artifact)).external

    def fill(stage: Path) -> None:
        rebuilt.fill(stage)
        for name in manifest.files.keys() - left:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(parent.path(name), stage / name)

    return fill
