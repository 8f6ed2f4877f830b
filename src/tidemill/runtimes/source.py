"""User code of a package (`transform.py`, a Python model): loaded from source only, spoken to in dicts of arrays."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import itertools
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

import numpy as np

from tidemill.errors import ModelError, PackageError
from tidemill.rows import VALID, Array, Rows

__all__ = ["forget_with", "in_one_process", "is_interrupt", "load_source", "to_dict", "to_rows", "told"]

T = TypeVar("T")

_PREFIX = "tidemill_package_"
_numbers = itertools.count()


class _SourceOnly(importlib.machinery.SourceFileLoader):
    """Reads no cached byte code, which no digest covers, and writes none beside the verified files."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Beside:
    """Finds what a package's code imports relatively, in its own directory and nowhere else."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith(_PREFIX) or path is None:
            return None
        last = name.rpartition(".")[2]
        for directory in path:
            for file, is_package in ((f"{last}.py", False), (f"{last}/__init__.py", True)):
                found = Path(directory, file)
                if found.is_file():
                    inside = [str(found.parent)] if is_package else None
                    return importlib.util.spec_from_file_location(
                        name, found, loader=_SourceOnly(name, str(found)), submodule_search_locations=inside
                    )
        return None


def load_source(path: Path) -> ModuleType:
    """Run a Python file as a module of its own: two loads share nothing, and `sys.path` stays as it is. The files
    beside it are its relative imports (`from . import other`). Raises PackageError with what the file raised.
    """
    if _Beside not in sys.meta_path:
        # Before the path finder, which would read and write byte code.
        sys.meta_path.insert(0, _Beside)
    root = ModuleType(f"{_PREFIX}{next(_numbers)}")
    root.__path__ = [str(path.parent)]
    sys.modules[root.__name__] = root
    try:
        return in_one_process(importlib.import_module)(f"{root.__name__}.{path.stem}")
    except BaseException as error:
        if is_interrupt(error):
            raise
        _forget(root.__name__)
        raise PackageError(f"{path.name} cannot be loaded: {told(error)}") from error


def in_one_process(call: Callable[..., T]) -> Callable[..., T]:
    """User code that may fork: a child that comes back from it ends there. It would go on as a second process of all
    that is around the call, and answer once more on the same connections.
    """

    def called(*arguments: Any) -> T:
        process = os.getpid()
        try:
            return call(*arguments)
        finally:
            if os.getpid() != process:
                os._exit(0)

    return called


def forget_with(owner: object, module: ModuleType) -> None:
    """Let a loaded module go, and those it imported beside it, once their owner is gone."""
    weakref.finalize(owner, _forget, module.__name__.partition(".")[0]).atexit = False


def _forget(root: str) -> None:
    for name in [m for m in list(sys.modules) if m == root or m.startswith(root + ".")]:
        sys.modules.pop(name, None)


def is_interrupt(error: BaseException) -> bool:
    """Whether what user code ended with is a Ctrl-C, and not its own doing: user code also raises SystemExit,
    CancelledError and the panics of its extensions, none of which is an Exception, and none of which may end a server.
    """
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        # Where the signal does something else, as in a worker process, nothing but user code raises it.
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def told(error: BaseException) -> str:
    """An exception of user code as `Type: text`, even where its text cannot be had."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as second:  # noqa: BLE001 - its __str__ is user code, too
        return f"{type(error).__name__} (whose text cannot be read: {type(second).__name__})"


def to_dict(rows: Rows) -> dict[str, Array]:
    """Columns by name; the mask of a column with missing integers or booleans stands under `NAME.valid`.

    The arrays are read-only views: what user code wrote into them would reach a neighbour's answer when a failed
    call is asked again by halves.
    """
    out = {name: _read_only(array) for name, array in rows.columns.items()}
    for name, mask in rows.valid.items():
        out[name + VALID] = _read_only(mask)
    return out


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def to_rows(found: Any, n: int, who: str) -> Rows:
    """What user code returned, as rows. Raises ModelError unless it is a dict of arrays with n rows each."""
    if not isinstance(found, Mapping):
        raise ModelError(f"{who} returned {type(found).__name__}, expected a dict of arrays")
    columns: dict[str, Array] = {}
    valid: dict[str, Array] = {}
    for name, value in found.items():
        if not isinstance(name, str):
            raise ModelError(f"{who} returned a column named {name!r:.80}, expected a string")
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            raise ModelError(f"{who} returned {name} with masked cells: put a value there, or NaN")
        array = np.asarray(value)
        if array.dtype.kind in "US":
            array = array.astype(np.object_)
        if array.ndim == 0:
            raise ModelError(f"{who} returned {name} as {type(value).__name__}, expected an array of {n} rows")
        if len(array) != n:
            raise ModelError(f"{who} returned {name} of shape {list(array.shape)} for {n} rows")
        if name.endswith(VALID) and name.removesuffix(VALID) in found:
            valid[name.removesuffix(VALID)] = array
        else:
            columns[name] = array
    for name, mask in valid.items():
        if mask.dtype != np.bool_ or mask.shape != columns[name].shape:
            raise ModelError(
                f"{who} returned {name}{VALID} as {mask.dtype} {list(mask.shape)}, "
                f"expected BOOL of shape {list(columns[name].shape)}"
            )
    return Rows(columns, n, valid)
