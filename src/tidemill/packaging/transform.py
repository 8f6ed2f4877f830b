"""`transform.py`: it may change what the package takes and gives, and says so itself or through the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from tidemill.datatypes import datatype, from_arrow_type
from tidemill.errors import InputError, PackageError
from tidemill.model.manifest import Manifest
from tidemill.model.signature import Input, Output
from tidemill.packaging.table import LikeTable
from tidemill.runtimes.source import load_source

__all__ = ["TRANSFORM_FILE", "Transform", "declared", "read_transform"]

TRANSFORM_FILE = "transform.py"


@dataclass(frozen=True, slots=True)
class Transform:
    """A transform file: whether it has `before`, and the inputs and outputs it declares (None: those of the model)."""

    path: Path
    before: bool
    inputs: tuple[Input, ...] | None
    outputs: tuple[Output, ...] | None

    def signature(self, manifest: Manifest, table: LikeTable | None) -> Manifest:
        """The manifest with what the transform takes and gives: as it declares, else, where it has `before`, the
        table's columns in their own types, else what the model takes and gives.
        """
        inputs, outputs = self.inputs or manifest.inputs, self.outputs or manifest.outputs
        if self.before and self.inputs is None and table is not None:
            inputs = tuple(_column(name, table) for name in table.features)
        return msgspec.structs.replace(manifest, transform=TRANSFORM_FILE, inputs=inputs, outputs=outputs)


def read_transform(path: Path) -> Transform:
    """Run the file to see what it defines: `before(rows)`, `after(rows)`, and perhaps `inputs` and `outputs`
    (`{name: (datatype, shape)}`). Raises PackageError for one that defines neither function.
    """
    if not path.is_file():
        raise PackageError(f"{path}: no such file")
    module = load_source(path)
    if not hasattr(module, "before") and not hasattr(module, "after"):
        raise PackageError(f"{path.name} defines neither before(rows) nor after(rows)")
    inputs = outputs = None
    if hasattr(module, "inputs"):
        inputs = tuple(Input(name=n, datatype=d, shape=s) for n, d, s in declared(module, "inputs", path.name))
    if hasattr(module, "outputs"):
        outputs = tuple(Output(name=n, datatype=d, shape=s) for n, d, s in declared(module, "outputs", path.name))
    return Transform(path, hasattr(module, "before"), inputs, outputs)


def declared(holder: ModuleType | type | object, what: str, who: str) -> list[tuple[str, Any, tuple[int, ...]]]:
    """`{name: (datatype, shape)}` of user code, checked. Raises PackageError naming what is wrong."""
    found = getattr(holder, what, None)
    if not isinstance(found, Mapping) or not found:
        raise PackageError(f"{who}: {what} must be a dict of name: (datatype, shape), as {{'x': ('FP32', [-1, 4])}}")
    out = []
    for name, pair in found.items():
        try:
            kind, shape = pair
            out.append((_text(name), datatype(kind).name, tuple(index(d) for d in shape)))
        except InputError as error:
            raise PackageError(f"{who}: {what}[{name!r}]: {error}") from None
        except (TypeError, ValueError):
            raise PackageError(f"{who}: {what}[{name!r}] is {pair!r}, expected (datatype, shape)") from None
    return out


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(name)
    return name


def _column(name: str, table: LikeTable) -> Input:
    return Input(name=name, datatype=from_arrow_type(table.columns[name].type).name)
