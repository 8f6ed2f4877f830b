"""A Python class as the model: `class Model` of the package's own source file, spoken to in dicts of arrays.

Modules beside it are imported relatively (`from . import features`), so that two packages never see each other's.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.errors import PackageError
from tidemill.model.manifest import Manifest
from tidemill.model.package import Package
from tidemill.rows import Rows
from tidemill.runtimes.requirements import check_requirements
from tidemill.runtimes.source import forget_with, in_one_process, is_interrupt, load_source, to_dict, to_rows, told

__all__ = ["PythonRuntime", "load"]


class PythonRuntime:
    """One instance of `Model`. Its calls are serialised unless the class says `thread_safe = True`."""

    releases_gil = False

    def __init__(self, model: Any) -> None:
        self.version = f"python {platform.python_version()}, numpy {np.__version__}"
        self._predict = in_one_process(model.predict)
        safe = getattr(model, "thread_safe", False) is True
        self._turn: AbstractContextManager[Any] = nullcontext() if safe else threading.Lock()

    def run(self, rows: Rows) -> Rows:
        given = to_dict(rows)
        with self._turn:
            found = to_rows(self._predict(given), rows.n, "Model.predict")
            # A model may well answer every call from one buffer of its own; the answers live longer than that.
            return Rows({name: array.copy() for name, array in found.columns.items()}, found.n, found.valid)


def load(package: Package) -> PythonRuntime:
    """Run the package's source, see that `Model` has the inputs and outputs of the manifest, make one and let it
    load its files. Raises PackageError for what is missing, differs or fails; `predict`'s exceptions pass through.
    """
    manifest = package.manifest
    check_requirements(manifest.requirements, manifest.name)
    path = package.path(manifest.runtime.artifact)
    module = load_source(path)
    found = getattr(module, "Model", None)
    if not isinstance(found, type):
        raise PackageError(f"{path.name} defines no class Model")
    # What it declares and its methods are the author's: nothing is known of their types.
    model_class: Any = found
    if not callable(getattr(model_class, "predict", None)):
        raise PackageError(f"{path.name}: Model has no method predict(self, rows)")
    _check(model_class, manifest, path)
    try:
        model = in_one_process(_loaded)(model_class, package.directory)
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise PackageError(f"{path.name}: Model cannot be loaded: {told(error)}") from error
    runtime = PythonRuntime(model)
    forget_with(runtime, module)
    return runtime


def _loaded(model_class: Any, directory: Path) -> Any:
    model = model_class()
    if hasattr(model, "load"):
        model.load(directory)
    return model


def _check(model_class: Any, manifest: Manifest, path: Path) -> None:
    """What `Model` declares against the manifest; a transform may stand between the two."""
    inputs = _declared(model_class, "inputs", path)
    outputs = _declared(model_class, "outputs", path)
    if manifest.transform is not None:
        return
    wanted = {i.name: (i.datatype, i.shape) for i in manifest.inputs}
    if inputs.keys() != wanted.keys():
        raise PackageError(
            f"{path.name}: Model.inputs names {', '.join(inputs)}; the manifest declares {', '.join(wanted)}"
        )
    given = {o.name: (o.datatype, o.shape) for o in manifest.outputs if o.source is None}
    absent = [name for name in given if name not in outputs]
    if absent:
        raise PackageError(f"{path.name}: Model.outputs lacks {', '.join(absent)}, which the manifest declares")
    for field, declared, manifested in (("inputs", inputs, wanted), ("outputs", outputs, given)):
        for name, (datatype, shape) in manifested.items():
            own_type, own_shape = declared[name]
            same = len(own_shape) == len(shape) and all(
                a == b or -1 in (a, b) for a, b in zip(own_shape, shape, strict=True)
            )
            if own_type != datatype or not same:
                raise PackageError(
                    f"{path.name}: Model.{field}[{name!r}] is {own_type} {list(own_shape)}; "
                    f"the manifest declares {datatype} {list(shape)}"
                )


def _declared(model_class: Any, field: str, path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    declared = getattr(model_class, field, None)
    if not isinstance(declared, Mapping) or not declared:
        raise PackageError(f"{path.name}: Model.{field} must be {{name: (datatype, shape)}}")
    try:
        return {str(name): (str(datatype), tuple(shape)) for name, (datatype, shape) in declared.items()}
    except (TypeError, ValueError):
        raise PackageError(
            f"{path.name}: Model.{field} must be {{name: (datatype, shape)}}, got {declared!r}"
        ) from None
