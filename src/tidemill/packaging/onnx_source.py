"""ONNX files: the signature read from the graph, the file and its external data taken as they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from tidemill.datatypes import DataTypeName, datatype
from tidemill.errors import PackageError
from tidemill.model.manifest import RuntimeSpec
from tidemill.model.signature import Column, Input, Output
from tidemill.packaging.draft import Draft
from tidemill.packaging.onnx_file import OnnxFile, read_onnx_file
from tidemill.packaging.options import PackageOptions
from tidemill.packaging.table import LikeTable
from tidemill.runtimes.onnx import DATATYPES, open_session

__all__ = ["MODEL_FILE", "onnx_draft", "read_signature"]

MODEL_FILE = "model.onnx"


def onnx_draft(source: Path, options: PackageOptions, table: LikeTable | None) -> Draft:
    """Read an ONNX file. Raises PackageError for a graph that cannot be carried, saying what to change."""
    facts = read_onnx_file(source)
    external = _external_files(source, facts)
    session = open_session(source, options.providers, options.threads)
    inputs, outputs, call_rows = read_signature(session, facts, options.columns, table)

    def fill(stage: Path) -> None:
        shutil.copyfile(source, stage / MODEL_FILE)
        for name in external:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.parent / name, stage / name)

    dynamic = "DynamicQuantizeLinear" in facts.operators
    return Draft(
        runtime=RuntimeSpec(
            name="onnx",
            artifact=MODEL_FILE,
            providers=options.providers,
            threads=options.threads,
            max_call_rows=call_rows,
        ),
        inputs=inputs,
        outputs=outputs,
        task="classification" if facts.labels else "other",
        fill=fill,
        how="ONNX as it is",
        tools={"onnx opset": str(facts.opsets.get("", 0)), "onnxruntime": ort.__version__},
        rows_dependent="it quantises dynamically: the scale is that of the whole call" if dynamic else "",
    )


def read_signature(
    session: ort.InferenceSession, facts: OnnxFile, columns: Sequence[str], table: LikeTable | None
) -> tuple[tuple[Input, ...], tuple[Output, ...], int | None]:
    """Inputs, outputs and the number of rows that every call must have, if the graph fixes it.

    A scalar column of shape [rows, 1] becomes one of shape [rows].
    """
    graph_inputs = session.get_inputs()
    call_rows = _call_rows([(i.name, i.shape) for i in graph_inputs])
    # Columns fill the one matrix there is; the other inputs are columns of their own name.
    matrices = [i for i in graph_inputs if len(i.shape) == 2 and i.shape[1] != 1]
    if columns and len(graph_inputs) == 1 and len(graph_inputs[0].shape) == 2:
        matrices = graph_inputs
    names: tuple[str, ...] = ()
    if len(matrices) == 1:
        others = {i.name for i in graph_inputs}
        spare = () if table is None or matrices[0].name in table.columns else table.features
        names = tuple(columns) or tuple(n for n in spare if n not in others)
    elif columns:
        shown = ", ".join(f"{i.name} {list(i.shape)}" for i in graph_inputs)
        raise PackageError(f"--columns: needs one two-dimensional input to fill; the model has {shown}")
    inputs = tuple(_input(i, names if i in matrices else (), table) for i in graph_inputs)
    outputs = tuple(_output(o, facts.labels) for o in session.get_outputs())
    return inputs, outputs, call_rows


def _input(one: Any, names: tuple[str, ...], table: LikeTable | None) -> Input:
    kind = _datatype(one, "input")
    shape = (-1, *_inner(one.shape))
    if not names:
        return Input(name=one.name, datatype=kind, shape=(-1,) if shape == (-1, 1) else shape)
    if shape[1] not in (-1, len(names)):
        raise PackageError(
            f"input {one.name!r} takes {shape[1]} columns, but {len(names)} are named ({_some(names)}); "
            "name exactly those it was trained on, in order: --columns a,b,… or --like with --drop"
        )
    if table is not None:
        absent = [n for n in names if n not in table.columns]
        if absent:
            raise PackageError(f"--columns: {_some(absent)} not in the table, which has {_some(tuple(table.columns))}")
    cells = tuple(Column(name=n) for n in names)
    return Input(name=one.name, datatype=kind, shape=(-1, len(names)), columns=cells)


def _output(one: Any, labels: tuple[str, ...]) -> Output:
    kind = _datatype(one, "output")
    if not one.shape:
        raise PackageError(
            f"output {one.name!r} has no rows (its rank is 0 or unknown): every output needs the rows as its first "
            "axis; export the model with a batch axis and inferred shapes (onnx.shape_inference.infer_shapes)"
        )
    shape = (-1, *_inner(one.shape))
    classes = labels if kind in ("FP32", "FP64") and len(shape) == 2 and shape[1] in (-1, len(labels)) else ()
    if classes:
        shape = (-1, len(classes))
    return Output(name=one.name, datatype=kind, shape=shape, labels=classes)


def _datatype(one: Any, what: str) -> DataTypeName:
    if not one.type.startswith("tensor("):
        advice = (
            "convert without ZipMap: skl2onnx.to_onnx(…, options={'zipmap': False})"
            if "map" in one.type
            else "export it as a tensor"
        )
        raise PackageError(f"{what} {one.name!r} is {one.type}, not a tensor; {advice}")
    found = DATATYPES.get(one.type)
    if found is None:
        raise PackageError(f"{what} {one.name!r} is {one.type}, which is not carried: cast it to float or an integer")
    return datatype(found).name


def _call_rows(shapes: Sequence[tuple[str, Sequence[Any]]]) -> int | None:
    fixed = {}
    for name, shape in shapes:
        if not shape:
            raise PackageError(
                f"input {name!r} has no rows (its rank is 0 or unknown): export the model with a batch axis"
            )
        if isinstance(shape[0], int) and shape[0] > 0:
            fixed[name] = shape[0]
    if not fixed:
        return None
    if len(set(fixed.values())) > 1 or len(fixed) != len(shapes):
        shown = ", ".join(f"{n} to {k}" for n, k in fixed.items())
        raise PackageError(
            f"the inputs do not share their rows (the first axis is fixed for {shown}): export the model with one "
            "dynamic batch axis"
        )
    return next(iter(fixed.values()))


def _inner(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) and d > 0 else -1 for d in shape[1:])


def _external_files(source: Path, facts: OnnxFile) -> list[str]:
    found = []
    for name in sorted(facts.external):
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not name:
            raise PackageError(f"{source.name}: its external data {name!r} lies outside the model's directory")
        if path.as_posix() == MODEL_FILE or name == "model.toml":
            raise PackageError(f"{source.name}: its external data may not be called {name!r}; rename it")
        if not (source.parent / path).is_file():
            raise PackageError(f"{source.name}: its external data {name!r} is missing beside it")
        found.append(path.as_posix())
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
