"""The end of every way to a package: the path is run with everything on, measured, and its answers kept as samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidemill.model.manifest import Manifest
from tidemill.model.package import Package, write_package
from tidemill.model.profile import PROFILE_FILE, write_profile
from tidemill.model.samples import SAMPLES_FILE, write_samples
from tidemill.packaging.invariance import largest_call, measure_invariance
from tidemill.packaging.samples import choose_samples
from tidemill.packaging.table import LikeTable
from tidemill.prediction.live import Live

__all__ = ["Said", "Sealed", "seal"]


@dataclass(frozen=True, slots=True)
class Said:
    """What is known without measuring. `tolerance` by output and `independent` (None: measure) are the user's words,
    `rows_dependent` why rows of one call depend on each other, if they do. `samples` rows are kept.
    """

    tolerance: Mapping[str, float]
    independent: bool | None = None
    rows_dependent: str = ""
    samples: int = 64


@dataclass(frozen=True, slots=True)
class Sealed:
    """The package, all notes, and by float output what the call size was seen to change."""

    package: Package
    notes: tuple[str, ...]
    differences: dict[str, float]


def seal(
    manifest: Manifest,
    fill: Callable[[Path], None],
    target: Path,
    table: LikeTable | None,
    work: Path,
    said: Said,
    notes: Sequence[str],
    *,
    overwrite: bool,
) -> Sealed:
    """Try what `fill` makes in the directory `work`, and write it at `target` with samples, notes, and a profile where
    the manifest names none yet.

    Raises PackageError where the model fails on the table's rows, or the signature refuses them all.
    """
    told = list(notes)
    live = Live.open(write_package(work / "whole", manifest, fill))
    samples = choose_samples(live, table, said.samples)
    if samples is not None:
        told += samples.notes
    most, why = largest_call(live, samples)
    if most is not None:
        told.append(f"larger calls than {most} fail, so that max_call_rows = {most}: {why}")
        manifest = msgspec.structs.replace(
            manifest, runtime=msgspec.structs.replace(manifest.runtime, max_call_rows=most)
        )
        live = Live(live.package, live.runtime, call_rows=most)
    measured = measure_invariance(live, samples)
    told += measured.notes
    manifest = _with_measured(manifest, measured.tolerances, measured.independent, said, told)

    def fill_whole(stage: Path) -> None:
        fill(stage)
        if samples is not None and samples.kept.num_rows:
            write_samples(stage / SAMPLES_FILE, samples.kept, samples.expected)
        if table is not None and manifest.profile is None:
            write_profile(stage / PROFILE_FILE, table.profile())

    whole = msgspec.structs.replace(
        manifest,
        samples=SAMPLES_FILE if samples is not None and samples.kept.num_rows else None,
        profile=manifest.profile or (PROFILE_FILE if table is not None else None),
        origin=msgspec.structs.replace(manifest.origin, notes=tuple(told)) if manifest.origin else None,
    )
    package = write_package(target, whole, fill_whole, overwrite=overwrite)
    return Sealed(package, tuple(told), measured.differences)


def _with_measured(
    manifest: Manifest, tolerances: Mapping[str, float], independent: bool, said: Said, notes: list[str]
) -> Manifest:
    """The measured tolerances and independence, where the user did not say them."""
    outputs = tuple(
        msgspec.structs.replace(o, tolerance=said.tolerance.get(o.name, max(o.tolerance, tolerances.get(o.name, 0.0))))
        for o in manifest.outputs
    )
    if said.rows_dependent and said.independent is None:
        notes.append(f"rows of one call depend on each other: {said.rows_dependent}; calls are never merged or split")
    elif said.independent is None and not independent:
        notes.append("rows of one call depend on each other, as measured; calls are never merged or split")
    if said.independent is None:
        independent = independent and manifest.rows_independent
    else:
        independent = said.independent
    return msgspec.structs.replace(manifest, outputs=outputs, rows_independent=independent)
