"""`transform.py`: it may change what the package takes and gives, and says so itself or by the table."""

from __future__ import annotations

from collections.abc import Mapping
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

__all__ = ["TRANSFORM_FILE", "declared", "transformed"]

TRANSFORM_FILE = "transform.py"


def transformed(manifest: Manifest, path: Path, table: LikeTable | None) -> Manifest:
    """The manifest with the transform's own `inputs` and `outputs` (`{name: (datatype, shape)}`) where it has them.

    A transform with `before` and without `inputs` takes the table's columns if they are not the model's.
    Raises PackageError for a file that defines neither function.
    """
    if not path.is_file():
        raise PackageError(f"{path}: no such file")
    module = load_source(path)
    if not hasattr(module, "before") and not hasattr(module, "after"):
        raise PackageError(f"{path.name} defines neither before(rows) nor after(rows)")
    inputs, outputs = manifest.inputs, manifest.outputs
    if hasattr(module, "inputs"):
        inputs = tuple(Input(name=n, datatype=d, shape=s) for n, d, s in declared(module, "inputs", path.name))
    elif hasattr(module, "before") and table is not None and not _covers(inputs, table):
        inputs = tuple(_column(name, table) for name in table.features)
    if hasattr(module, "outputs"):
        outputs = tuple(Output(name=n, datatype=d, shape=s) for n, d, s in declared(module, "outputs", path.name))
    return msgspec.structs.replace(manifest, transform=TRANSFORM_FILE, inputs=inputs, outputs=outputs)


def declared(holder: ModuleType | type | object, what: str, who: str) -> list[tuple[str, Any, tuple[int, ...]]]:
    """`{name: (datatype, shape)}` of user code, checked. Raises PackageError naming what is wrong."""
    found = getattr(holder, what, None)
    if not isinstance(found, Mapping) or not found:
        raise PackageError(f"{who}: {what} must be a dict of name: (datatype, shape), as {{'x': ('FP32', [-1, 4])}}")
    out = []
    for name, pair in found.items():
        try:
            kind, shape = pair
            out.append((str(name), datatype(kind).name, tuple(int(d) for d in shape)))
        except InputError as error:
            raise PackageError(f"{who}: {what}[{name!r}]: {error}") from None
        except (TypeError, ValueError):
            raise PackageError(f"{who}: {what}[{name!r}] is {pair!r}, expected (datatype, shape)") from None
    return out


def _covers(inputs: tuple[Input, ...], table: LikeTable) -> bool:
    needed = [n for i in inputs for n in ([c.name for c in i.columns] or [i.name])]
    return all(n in table.columns for n in needed)


def _column(name: str, table: LikeTable) -> Input:
    facts = table.columns[name]
    return Input(name=name, datatype=from_arrow_type(facts.type).name, nullable=facts.missing > 0)
