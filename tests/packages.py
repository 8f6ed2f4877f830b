"""Writing a small package, whatever it is for: one artefact, its signature, and further files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidemill.model.manifest import Manifest, RuntimeSpec
from tidemill.model.package import Package, open_package, write_package
from tidemill.model.signature import Input, Output

ARTIFACTS = {"onnx": "model.onnx", "sklearn": "model.skops", "python": "model.py", "lleaves": "model.txt"}


def make(
    directory: Path,
    runtime: str,
    artifact: bytes | str,
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    *,
    name: str = "tiny",
    version: str = "1",
    spec: Mapping[str, Any] | None = None,
    files: Mapping[str, str | bytes] | None = None,
    **manifest: Any,
) -> Package:
    """Write a package of one artefact and further files, and open it as everybody does."""
    data = artifact.encode() if isinstance(artifact, str) else artifact

    def fill(stage: Path) -> None:
        (stage / ARTIFACTS[runtime]).write_bytes(data)
        for file, text in (files or {}).items():
            (stage / file).parent.mkdir(parents=True, exist_ok=True)
            (stage / file).write_bytes(text if isinstance(text, bytes) else text.encode())

    write_package(
        directory,
        Manifest(
            format=1,
            name=name,
            version=version,
            runtime=RuntimeSpec(name=runtime, artifact=ARTIFACTS[runtime], **(spec or {})),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            **manifest,
        ),
        fill,
        overwrite=True,
    )
    return open_package(directory)
