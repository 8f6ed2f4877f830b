"""ONNX Runtime: execution providers by name, one intra-op thread a call unless the package asks for more.

With one thread the same row gives the same bits at every call size; with two, a call's size decides how a tree
ensemble's sums are cut, and rows moved by up to 2e-7.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from tidemill.errors import ModelError, PackageError
from tidemill.model.manifest import Manifest
from tidemill.model.package import Package
from tidemill.model.signature import Input
from tidemill.rows import Array, Rows

__all__ = ["DATATYPES", "OnnxRuntime", "load", "open_session"]

# ONNX Runtime's name of a tensor type → ours
DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def open_session(path: Path, providers: tuple[str, ...], threads: int) -> ort.InferenceSession:
    """A session on a model file. Raises PackageError for an unknown provider or a file ONNX Runtime refuses."""
    absent = [p for p in providers if p not in ort.get_available_providers()]
    if absent:
        available = ", ".join(ort.get_available_providers())
        raise PackageError(f"execution provider {', '.join(absent)} is not available here: expected one of {available}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning would burn a core that another session or the event loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What fails is raised, and told where it is caught; on stderr it would stand among a server's JSON lines.
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), sess_options=options, providers=list(providers))
    except Exception as error:
        raise PackageError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error


class OnnxRuntime:
    """One session; `run` may be called from several threads at once. `outputs` are those that are computed."""

    releases_gil = True

    def __init__(self, session: ort.InferenceSession, outputs: list[str]) -> None:
        self.version = f"onnxruntime {ort.__version__}"
        self._session = session
        # skl2onnx gives every scalar column of a pipeline the shape (n, 1).
        self._inputs = [(i.name, len(i.shape) == 2 and i.shape[1] == 1) for i in session.get_inputs()]
        self._outputs = outputs
        self._call_rows = _fixed_rows(session)

    def run(self, rows: Rows) -> Rows:
        masked = [name for name, mask in rows.valid.items() if not mask.all()]
        if masked:
            raise ModelError(
                f"{', '.join(masked)}: an ONNX graph has no missing integers or booleans; declare a fill, or "
                "let transform.before fill them and leave the mask out"
            )
        feeds = {}
        for name, columnar in self._inputs:
            array = rows.columns.get(name)
            if array is None:
                raise ModelError(f"no column {name!r} for the graph; transform.before gave {', '.join(rows.columns)}")
            feeds[name] = array.reshape(-1, 1) if columnar and array.ndim == 1 else array
        spare = self._call_rows - rows.n if self._call_rows else 0
        if spare > 0:
            feeds = {name: _padded(array, spare) for name, array in feeds.items()}
        found = self._session.run(self._outputs, feeds)
        if spare > 0:
            found = [array[: rows.n] for array in found]
        return Rows(dict(zip(self._outputs, found, strict=True)), rows.n)


def load(package: Package) -> OnnxRuntime:
    """Load the package's ONNX file, and see that the graph's inputs and outputs are those of the signature (where
    a transform stands between them, only that its outputs are tensors). Raises PackageError naming each difference.
    """
    manifest = package.manifest
    spec = manifest.runtime
    session = open_session(package.path(spec.artifact), spec.providers, spec.threads)
    problems = list(_differences(session, manifest))
    if problems:
        raise PackageError(f"{spec.artifact} and the signature differ: {'; '.join(problems)}")
    outputs = [o.name for o in session.get_outputs() if o.type in DATATYPES]
    if manifest.transform is None:
        outputs = [o.name for o in manifest.outputs if o.source is None]
    return OnnxRuntime(session, outputs)


def _differences(session: ort.InferenceSession, manifest: Manifest) -> Iterator[str]:
    graph = {i.name: i for i in session.get_inputs()}
    for name, node in graph.items():
        if node.type not in DATATYPES:
            yield f"graph input {name!r} is {node.type}, which no datatype carries"
    rows = _fixed_rows(session)
    most = manifest.runtime.max_call_rows
    if rows and (most is None or most > rows):
        yield f"the graph takes {rows} rows a call; set runtime.max_call_rows = {rows}"
    if rows > 1 and not manifest.rows_independent:
        yield f"the graph takes {rows} rows a call, and fewer cannot be filled up where rows depend on each other"
    if manifest.transform is not None:
        return
    declared = {i.name: i for i in manifest.inputs}
    for name in graph.keys() - declared.keys():
        yield f"graph input {name!r} is not declared"
    for name in declared.keys() - graph.keys():
        yield f"input {name!r} is not in the graph, which has {', '.join(graph)}"
    for name in [n for n in declared if n in graph and graph[n].type in DATATYPES]:
        yield from _input_differences(declared[name], graph[name])
    given = {o.name: o for o in session.get_outputs()}
    for output in manifest.outputs:
        if output.source is not None:
            continue
        if output.name not in given:
            yield f"output {output.name!r} is not in the graph, which has {', '.join(given)}"
        elif DATATYPES.get(given[output.name].type) != output.datatype:
            yield f"output {output.name!r} is {given[output.name].type} in the graph, declared {output.datatype}"


def _input_differences(one: Input, node: Any) -> Iterator[str]:
    if DATATYPES[node.type] != one.datatype:
        yield f"input {one.name!r} is {DATATYPES[node.type]} in the graph, declared {one.datatype}"
    own = [d if isinstance(d, int) else -1 for d in node.shape]
    columnar = len(own) == 2 and own[1] == 1 and one.shape == (-1,)
    # A graph need not state its shapes.
    if (
        own
        and not columnar
        and (len(own) != len(one.shape) or any(g not in (-1, d) for g, d in zip(own[1:], one.shape[1:], strict=True)))
    ):
        yield f"input {one.name!r} has shape {[-1, *own[1:]]} in the graph, declared {list(one.shape)}"
    if one.binary:
        yield f"input {one.name!r} is binary, but ONNX strings are text"
    nullable = one.nullable or any(c.nullable for c in one.columns)
    if nullable and one.fill is None and not one.type.is_float:
        yield f"input {one.name!r} is nullable, but ONNX has no missing {one.datatype}; declare a fill"


def _fixed_rows(session: ort.InferenceSession) -> int:
    """The rows that each call must have where the graph fixes its first axis, else 0."""
    return max((i.shape[0] for i in session.get_inputs() if i.shape and isinstance(i.shape[0], int)), default=0)


def _padded(array: Array, spare: int) -> Array:
    """`spare` copies of the last row more."""
    return np.concatenate([array, np.repeat(array[-1:], spare, axis=0)])
