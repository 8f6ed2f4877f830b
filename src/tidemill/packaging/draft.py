"""A draft: what an importer read out of a source, before the path has been run on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tidemill.model.manifest import RuntimeSpec, Task
from tidemill.model.signature import Input, Output
from tidemill.rows import Array

__all__ = ["Draft", "Reference", "Unused"]

# Answers of the original library to a table, by output name: what the packaged model is compared with.
Reference = Callable[[pa.RecordBatch], Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class Draft:
    """One way of running a source.

    `fill` puts the artefacts into a directory. `how` says in a few words what this way is ("converted to ONNX
    with FP32 inputs"). `empty_text_is_missing`: the conversion made the empty string what null was.
    `probe` makes rows for a comparison where the user gave no table.
    """

    runtime: RuntimeSpec
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    task: Task
    fill: Callable[[Path], None]
    how: str
    tools: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    rows_dependent: str = ""
    empty_text_is_missing: bool = False
    reference: Reference | None = None
    probe: Callable[[], pa.RecordBatch] | None = None


@dataclass(frozen=True, slots=True)
class Unused:
    """A way that was tried and did not come to a draft, and why."""

    how: str
    why: str
