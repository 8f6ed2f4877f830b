"""A package as plain data: what `tidemill inspect --json` prints."""

from __future__ import annotations

from typing import Any

import msgspec

from tidemill.model.package import Package
from tidemill.model.samples import read_samples
from tidemill.runtimes import load_runtime

__all__ = ["describe"]


def describe(package: Package) -> dict[str, Any]:
    """Name, version, fingerprint, signature, runtime, files with sizes, samples, SLO and origin, ready for JSON.

    Loads the runtime, whose version is part of the fingerprint: raises PackageError or MissingExtra if it cannot.
    """
    manifest = package.manifest
    runtime = load_runtime(package)
    samples = read_samples(package)
    return {
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "description": manifest.description,
        "created_at": manifest.created_at,
        "fingerprint": package.fingerprint(runtime.version),
        "inputs": [_full(i) for i in manifest.inputs],
        "outputs": [_full(o) for o in manifest.outputs],
        "entity_key": list(manifest.entity_key),
        "rows_independent": manifest.rows_independent,
        "repeatable": manifest.repeatable,
        "transform": manifest.transform,
        "requirements": list(manifest.requirements),
        "runtime": {**_full(manifest.runtime), "version": runtime.version},
        "slo": {"p99_ms": manifest.slo.p99_ms, "timeout_ms": manifest.slo.timeout_ms},
        "samples": samples[0].num_rows if samples is not None else 0,
        "origin": None if manifest.origin is None else _full(manifest.origin),
        "optimised": None if manifest.optimised is None else _full(manifest.optimised),
        "files": [
            {"name": name, "bytes": package.path(name).stat().st_size, "sha256": digest}
            for name, digest in manifest.files.items()
        ],
    }


def _full(value: msgspec.Struct) -> dict[str, Any]:
    """What the manifest says of it, and always its name, datatype and shape, which TOML leaves out when usual."""
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain | ({"shape": list(value.shape)} if hasattr(value, "shape") else {})
