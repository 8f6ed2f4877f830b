"""Trees as machine code: a LightGBM text file, compiled by lleaves (LLVM) when the package is loaded.

What is kept and verified is the text. Machine code is made from it in this process, for this CPU, each time; none is
ever read from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, c_int32, c_void_p
from importlib.metadata import version
from typing import Any

import lleaves
import numpy as np
from lleaves.compiler import compile_to_module
from lleaves.llvm_binding import compile_module_to_asm

from tidemill.errors import ModelError, PackageError
from tidemill.model.manifest import Manifest
from tidemill.model.package import Package
from tidemill.model.signature import Output
from tidemill.rows import Array, Rows

__all__ = ["LleavesRuntime", "load"]

# What a transform finds; without one, an output is what its datatype and shape say.
LABEL, PROBABILITIES, VALUE = "label", "probabilities", "value"

_ENTRY = "forest_root"
# Rows and scores as FP64, the first row and the one after the last. ctypes lets go of the interpreter's lock around it.
_Entry = CFUNCTYPE(None, c_void_p, c_void_p, c_int32, c_int32)
_MOST_ROWS = 2**31 - 1

Give = Callable[[Array], Array]


class LleavesRuntime:
    """One compiled forest; `run` may be called from several threads at once, and lets go of the interpreter's lock."""

    releases_gil = True

    def __init__(self, engine: Any, width: int, per_row: int, binary: bool, gives: dict[str, Give]) -> None:
        self.version = f"lleaves {version('lleaves')}, llvmlite {version('llvmlite')}"
        # The code lives as long as the engine.
        self._engine = engine
        self._entry = _Entry(engine.get_function_address(_ENTRY))
        self._width, self._per_row, self._binary = width, per_row, binary
        self._gives = gives

    def run(self, rows: Rows) -> Rows:
        if len(rows.columns) != 1:
            raise ModelError(f"the trees take one matrix, and got {', '.join(rows.columns)}")
        ((name, matrix),) = rows.columns.items()
        if matrix.ndim != 2 or matrix.shape[1] != self._width or matrix.dtype.kind not in "fiub":
            raise ModelError(
                f"the trees take {self._width} numbers a row, and got {name} of {matrix.dtype} {list(matrix.shape)}"
            )
        if name in rows.valid and not rows.valid[name].all():
            raise ModelError(f"{name}: integers cannot be missing for trees; declare a fill")
        if rows.n >= _MOST_ROWS:
            raise ModelError(f"{rows.n} rows in one call, the trees count to {_MOST_ROWS}")
        # The library's own predict does the same, and takes longer over it than the trees over one row.
        cells = np.ascontiguousarray(matrix, np.float64)
        scores = np.zeros(rows.n if self._per_row == 1 else (rows.n, self._per_row))
        self._entry(cells.ctypes.data, scores.ctypes.data, 0, rows.n)
        if self._binary:
            # The compiled code gives the probability of the second class alone.
            positive, scores = scores, np.empty((rows.n, 2))
            np.subtract(1.0, positive, out=scores[:, 0])
            scores[:, 1] = positive
        return Rows({output: give(scores) for output, give in self._gives.items()}, rows.n)


def load(package: Package) -> LleavesRuntime:
    """Compile the package's trees. Raises PackageError for a file that is no LightGBM text, and for a signature that
    is not that of its trees: one matrix in; a class, a score for each class, or a value out.
    """
    manifest = package.manifest
    path = package.path(manifest.runtime.artifact)
    try:
        facts = lleaves.Model(model_file=str(path))
        module = compile_to_module(str(path), raw_score=False, fblocksize=34, finline=True, froot_func_name=_ENTRY)
        engine = compile_module_to_asm(module, None, fcodemodel="large")
    except Exception as error:
        raise PackageError(
            f"{path.name}: lleaves cannot compile it: {type(error).__name__}: {str(error)[:300]}"
        ) from error
    width, per_row = facts.num_feature(), facts.num_model_per_iteration()
    problems = list(_differences(width, manifest))
    if problems:
        raise PackageError(f"{path.name} and the signature differ: {'; '.join(problems)}")
    binary = _objective(path.read_text("utf-8")) == "binary"
    return LleavesRuntime(engine, width, per_row, binary, _gives(manifest, per_row, binary or per_row > 1))


def _objective(text: str) -> str:
    line = next((one for one in text.splitlines() if one.startswith("objective=")), "")
    return line.removeprefix("objective=").partition(" ")[0]


def _differences(width: int, manifest: Manifest) -> Iterator[str]:
    if manifest.transform is not None:
        return
    for one in manifest.inputs[1:]:
        yield f"input {one.name!r} is one too many: trees take one matrix"
    first = manifest.inputs[0]
    if first.shape != (-1, width) or first.type.dtype.kind not in "fiub":
        yield f"input {first.name!r} is {first.datatype} {list(first.shape)}, the trees take numbers {[-1, width]}"
    if (first.nullable or any(c.nullable for c in first.columns)) and first.fill is None and not first.type.is_float:
        yield f"input {first.name!r} is nullable, but trees have no missing {first.datatype}; declare a fill"


def _gives(manifest: Manifest, per_row: int, probable: bool) -> dict[str, Give]:
    """How each output comes of the scores, which are (n, classes) where they are `probable`, else (n,).

    Raises PackageError for an output that these trees have not.
    """
    classes = per_row if per_row > 1 else 2
    if manifest.transform is not None:
        standard: dict[str, Give] = {
            LABEL: lambda scores: scores.argmax(axis=1),
            PROBABILITIES: lambda scores: scores.astype(np.float32),
        }
        return standard if probable else {VALUE: lambda scores: scores.astype(np.float32)}
    outputs = [o for o in manifest.outputs if o.source is None]
    names = next((o.labels for o in outputs if o.shape == (-1, classes)), ())
    return {o.name: _give(o, classes, probable, names) for o in outputs}


def _give(output: Output, classes: int, probable: bool, names: tuple[str, ...]) -> Give:
    dtype = output.type.dtype
    if not probable and output.type.is_float and output.shape == (-1,):
        return lambda scores: scores.astype(dtype)
    if probable and output.type.is_float and output.shape == (-1, classes):
        return lambda scores: scores.astype(dtype)
    if probable and not output.type.is_float and output.shape == (-1,):
        labels = _labels(output, classes, names)
        return lambda scores: labels[scores.argmax(axis=1)]
    what = f"a score for each of {classes} classes, and a class" if probable else "a value a row"
    raise PackageError(f"output {output.name!r} is {output.datatype} {list(output.shape)}; the trees give {what}")


def _labels(output: Output, classes: int, names: tuple[str, ...]) -> Array:
    """The classes as this output tells them: by the names of the scores, else by their numbers."""
    told = names or output.labels or tuple(map(str, range(classes)))
    try:
        return np.array(told, output.type.dtype)
    except ValueError:
        raise PackageError(f"output {output.name!r} is {output.datatype}, the classes are {', '.join(told)}") from None
