"""`package_model`: import, try on real rows, measure, write. The first way that agrees with the original is kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tidemill.config import decode
from tidemill.errors import ConfigError, PackageError, TidemillError
from tidemill.model.manifest import MANIFEST, NAME, VERSION, Manifest, Origin, Slo
from tidemill.model.package import Package, write_package
from tidemill.model.signature import signature_problems
from tidemill.packaging.agreement import compare, disagreement
from tidemill.packaging.decorate import decorated_inputs, decorated_outputs
from tidemill.packaging.draft import Draft, Unused
from tidemill.packaging.options import Kind, PackageOptions, PackageReport
from tidemill.packaging.sealing import Said, seal
from tidemill.packaging.sources import detect, drafts
from tidemill.packaging.table import LikeTable, read_like
from tidemill.packaging.transform import TRANSFORM_FILE, Transform, read_transform
from tidemill.prediction.live import Live

__all__ = ["package_model"]


def package_model(
    source: str | os.PathLike[str], out: str | os.PathLike[str], options: PackageOptions | None = None
) -> PackageReport:
    """Make a package directory `out` of a model file.

    Raises PackageError (what cannot be carried, what disagrees with the original, `out` exists), ConfigError
    (options that contradict the model), InputError (the table), MissingExtra. Nothing is left at `out` then.
    """
    options = options or PackageOptions()
    for field, text, pattern, most in (("name", options.name, NAME, 128), ("version", options.version, VERSION, 64)):
        # As a manifest is checked it would be told of each way to run the source, as why that way is none.
        if text is not None and re.fullmatch(pattern, text) is None:
            raise ConfigError(
                f"{field} {text!r:.200}: expected at most {most} of the letters A to Z and a to z, digits and . _ -, "
                "the first a letter or digit"
            )
    path, target = Path(source), Path(out)
    kind = detect(path, options.kind)
    if target.exists() and not options.overwrite:
        raise PackageError(f"{out} exists; choose another --out, or pass --overwrite")
    for given, flag, of in ((options.include, "--include", "python"), (options.trusted, "--trusted", "sklearn")):
        if given and kind != of:
            raise ConfigError(f"{flag} is for {of} models, and {path.name} is {kind}: leave it out")
    table = _table(options)
    transform = read_transform(Path(options.transform)) if options.transform is not None else None
    target.resolve().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tidemill-", dir=target.resolve().parent) as work:
        behind, read = options, table
        if transform is not None and transform.before:
            # The table is what the transform reads, and says nothing of what the model behind it does.
            behind, read = msgspec.structs.replace(behind, nullable=(), bounds={}, fill={}), None
        if transform is not None and transform.outputs is not None:
            behind = msgspec.structs.replace(behind, labels=(), threshold=None, top_k=None, tolerance={})
        chosen = _choose(kind, path, behind, read, Path(work))
        return _finish(chosen, target, options, transform, table, Path(work))


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A draft that agrees with the original, its manifest so far, and what was learned on the way."""

    draft: Draft
    manifest: Manifest
    agreement: dict[str, float] | None
    notes: list[str]


def _table(options: PackageOptions) -> LikeTable | None:
    if options.like is None:
        for given, flag in ((options.drop, "--drop"), (options.learn_bounds, "--learn-bounds")):
            if given:
                raise ConfigError(f"{flag} is about the table of --like, which was not given")
        return None
    return read_like(options.like, (*options.drop, *options.entity_key), options.max_categories)


def _choose(kind: Kind, source: Path, options: PackageOptions, table: LikeTable | None, work: Path) -> _Chosen:
    """Try the ways of running the source, best first, against what the original answers."""
    notes: list[str] = []
    failure: TidemillError | None = None
    for number, draft in enumerate(drafts(kind, source, options, table)):
        if isinstance(draft, Unused):
            notes.append(f"{draft.how}: not used: {draft.why}")
            continue
        try:
            manifest, said = _manifest(draft, kind, source, options, table)
            package = write_package(work / f"try{number}", manifest, draft.fill)
            agreement, told = _agreement(draft, package, table)
        except TidemillError as error:
            failure = error
            notes.append(f"{draft.how}: not used: {error}")
            continue
        return _Chosen(draft, manifest, agreement, [*notes, f"{draft.how}{told}", *draft.notes, *said])
    if failure is not None and len(notes) == 1:
        raise failure
    raise PackageError(f"{source.name}: " + "; ".join(notes)) from failure


def _agreement(draft: Draft, package: Package, table: LikeTable | None) -> tuple[dict[str, float] | None, str]:
    if draft.reference is None:
        return None, ""
    rows, what = (table.rows, "rows of the table") if table is not None else (None, "")
    if rows is None and draft.probe is not None:
        rows, what = draft.probe(), "made-up rows (no --like table was given)"
    if rows is None:
        return None, "; not compared with the original: no --like table was given"
    found = compare(Live.open(package), rows, draft.reference)
    refused = disagreement(found, package.manifest.outputs)
    if refused:
        raise PackageError(refused)
    worst = max(found.differences.values(), default=0.0)
    return found.differences, f"; agrees with the original on {found.rows} {what} (greatest difference {worst:.2g})"


def _manifest(
    draft: Draft, kind: str, source: Path, options: PackageOptions, table: LikeTable | None
) -> tuple[Manifest, list[str]]:
    inputs, notes = decorated_inputs(draft.inputs, options, table, draft)
    outputs = decorated_outputs(draft.outputs, options)
    slo = Slo()
    if options.p99_ms is not None:
        slo = msgspec.structs.replace(slo, p99_ms=options.p99_ms)
    if options.timeout_ms is not None:
        slo = msgspec.structs.replace(slo, timeout_ms=options.timeout_ms)
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = Manifest(
        format=1,
        name=options.name or re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-._") or "model",
        version=options.version,
        task=options.task or draft.task,
        description=options.description,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows_independent=not draft.rows_dependent if options.rows_independent is None else options.rows_independent,
        repeatable=options.repeatable,
        entity_key=options.entity_key,
        requirements=draft.requirements,
        runtime=draft.runtime,
        slo=slo,
        inputs=inputs,
        outputs=outputs,
        origin=Origin(kind=kind, file=source.name, sha256=digest, tools=dict(draft.tools)),
    )
    # Everything the options could have broken, all at once, before anything is written.
    problems = _option_problems(manifest) + list(signature_problems(manifest.inputs, manifest.outputs))
    if problems:
        raise ConfigError(problems)
    return manifest, notes


def _option_problems(manifest: Manifest) -> list[str]:
    """Breaches of the manifest's own field rules (name, version, SLO, tolerances)."""
    try:
        decode(msgspec.to_builtins(manifest), Manifest, MANIFEST)
    except ConfigError as error:
        return list(error.problems)
    return []


def _finish(
    chosen: _Chosen,
    target: Path,
    options: PackageOptions,
    transform: Transform | None,
    table: LikeTable | None,
    work: Path,
) -> PackageReport:
    """Measure the chosen way with everything on (transform, fills), keep samples and write the package."""
    manifest, notes = chosen.manifest, list(chosen.notes)
    if transform is not None:
        manifest = transform.signature(manifest, table)
        if transform.before:
            inputs, told = decorated_inputs(manifest.inputs, options, table, None)
            manifest, notes = msgspec.structs.replace(manifest, inputs=inputs), notes + told
        if transform.outputs is not None:
            manifest = msgspec.structs.replace(manifest, outputs=decorated_outputs(transform.outputs, options))

    def fill(stage: Path) -> None:
        chosen.draft.fill(stage)
        if transform is not None:
            shutil.copyfile(transform.path, stage / TRANSFORM_FILE)

    said = Said(options.tolerance, options.rows_independent, chosen.draft.rows_dependent, options.samples)
    sealed = seal(manifest, fill, target, table, work, said, notes, overwrite=options.overwrite)
    return PackageReport(sealed.package, sealed.notes, chosen.agreement, sealed.differences)
