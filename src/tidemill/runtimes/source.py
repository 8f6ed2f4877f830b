"""User code of a package (`transform.py`, a Python model): loaded from source only, spoken to in dicts of arrays."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from tidemill.errors import ModelError, PackageError
from tidemill.rows import VALID, Array, Rows

__all__ = ["load_source", "to_dict", "to_rows"]

_numbers = itertools.count()


class _SourceOnly(importlib.machinery.SourceFileLoader):
    """Reads no cached byte code, which no digest covers, and writes none beside the verified files."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_source(path: Path) -> ModuleType:
    """Run a Python file as a module of its own. Raises PackageError with what the file raised."""
    name = f"tidemill_package_{next(_numbers)}_{path.stem}"
    loader = _SourceOnly(name, str(path))
    spec = importlib.machinery.ModuleSpec(name, loader, origin=str(path))
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except Exception as error:
        raise PackageError(f"{path.name} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def to_dict(rows: Rows) -> dict[str, Array]:
    """Columns by name; the mask of a column with missing integers or booleans stands under `NAME.valid`."""
    out = dict(rows.columns)
    for name, mask in rows.valid.items():
        out[name + VALID] = mask
    return out


def to_rows(found: Any, n: int, who: str) -> Rows:
    """What user code returned, as rows. Raises ModelError unless it is a dict of arrays with n rows each."""
    if not isinstance(found, Mapping):
        raise ModelError(f"{who} returned {type(found).__name__}, expected a dict of arrays")
    columns: dict[str, Array] = {}
    valid: dict[str, Array] = {}
    for name, value in found.items():
        array = np.asarray(value)
        if array.dtype.kind in "US":
            array = array.astype(np.object_)
        if array.ndim == 0 or len(array) != n:
            raise ModelError(f"{who} returned {name} of shape {list(array.shape)} for {n} rows")
        if name.endswith(VALID) and name.removesuffix(VALID) in found:
            valid[name.removesuffix(VALID)] = array
        else:
            columns[name] = array
    return Rows(columns, n, valid)
