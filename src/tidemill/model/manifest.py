"""`model.toml`: everything a package says about itself."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tidemill.config import Config
from tidemill.model.signature import Input, Output, signature_problems

__all__ = [
    *("FORMAT", "MANIFEST", "NAME", "VERSION", "Figures", "Manifest", "Optimised", "Origin", "RuntimeSpec", "Slo"),
    "Task",
]

MANIFEST = "model.toml"
FORMAT = 1
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
VERSION = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Task = Literal["classification", "regression", "ranking", "embedding", "detection", "other"]


class RuntimeSpec(Config, frozen=True, kw_only=True):
    """What executes the artefact. `threads` are intra-op threads a call; `max_call_rows` bounds one call."""

    name: Literal["onnx", "sklearn", "python", "lleaves"]
    artifact: str
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    max_call_rows: Annotated[int, msgspec.Meta(ge=1)] | None = None
    trusted: tuple[str, ...] = ()


class Slo(Config, frozen=True, kw_only=True):
    """What a real-time answer is held to. `timeout_ms` is the deadline of a request that brings none."""

    p99_ms: Annotated[float, msgspec.Meta(gt=0)] = 100.0
    timeout_ms: Annotated[float, msgspec.Meta(gt=0)] = 30_000.0


class Origin(Config, frozen=True, kw_only=True):
    """Where the artefact came from: kind of source, its digest, the tools that converted it, and what they said."""

    kind: str
    file: str
    sha256: str
    tools: dict[str, str] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Figures(Config, frozen=True, kw_only=True):
    """What was measured of one package: its metric, rows/s in calls of `Optimised.call_rows`, milliseconds of a call of
    one row, and the bytes of what can change an answer.
    """

    metric: float
    rows_per_second: float
    p50_ms: float
    p99_ms: float
    bytes: int


class Optimised(Config, frozen=True, kw_only=True):
    """How this package was made of another one, and what both were measured to do on the same rows.

    `parent` is that package's fingerprint; `differences` the greatest absolute difference of each float output (of
    others the share of rows that differ) between the two.
    """

    parent: str
    parent_version: str
    how: str
    data: str
    rows: int
    metric: str
    call_rows: int
    machine: str
    before: Figures
    after: Figures
    differences: dict[str, float] = msgspec.field(default_factory=dict)


class Manifest(Config, frozen=True, kw_only=True):
    """The whole of `model.toml`. `files` maps each file of the package to its SHA-256."""

    format: Literal[1]
    name: Annotated[str, msgspec.Meta(pattern=NAME)]
    version: Annotated[str, msgspec.Meta(pattern=VERSION)]
    task: Task = "other"
    description: str = ""
    created_at: str = ""
    rows_independent: bool = True
    repeatable: bool = True
    entity_key: tuple[str, ...] = ()
    transform: str | None = None
    samples: str | None = None
    profile: str | None = None
    requirements: tuple[str, ...] = ()
    runtime: RuntimeSpec
    slo: Slo = Slo()
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    origin: Origin | None = None
    optimised: Optimised | None = None
    files: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]] = msgspec.field(default_factory=dict)

    def problems(self) -> list[str]:
        """Every rule that one field alone cannot show."""
        found = list(signature_problems(self.inputs, self.outputs))
        for field, text in (("name", self.name), ("version", self.version)):
            if text.endswith("\n"):  # which a pattern's $ lets pass
                found.append(f"{field}: {text!r} ends with a line break")
        for field, value in (
            ("runtime.artifact", self.runtime.artifact),
            ("transform", self.transform),
            ("samples", self.samples),
            ("profile", self.profile),
        ):
            if value is not None and value not in self.files:
                found.append(f"{field}: {value!r} is not in [files]")
        return found + [
            f"files: {name!r} is not a plain path inside the package" for name in self.files if not _plain(name)
        ]


def _plain(name: str) -> bool:
    """A relative path with forward slashes that cannot leave the directory, and is not the manifest itself."""
    parts = name.split("/")
    odd = "\\" in name or "\0" in name or name == MANIFEST
    return not odd and not any(part in ("", ".", "..") for part in parts)
