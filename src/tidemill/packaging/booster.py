"""What LightGBM and XGBoost models have in common: numbers in named columns, one tensor in, ONNX out, no other way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxmltools
import pyarrow as pa

from tidemill.datatypes import from_arrow_type
from tidemill.errors import PackageError, listing
from tidemill.model.manifest import RuntimeSpec, Task
from tidemill.model.signature import Column, Input, Output
from tidemill.packaging.draft import Draft, Unused
from tidemill.packaging.onnx_outputs import rename_outputs
from tidemill.packaging.onnx_source import MODEL_FILE
from tidemill.packaging.options import PackageOptions
from tidemill.packaging.probe import threshold_table
from tidemill.packaging.table import LikeTable
from tidemill.rows import Array

__all__ = ["booster_draft", "columns_of", "matrix"]

INPUT = "input"


def columns_of(
    names: Sequence[str] | None, width: int, options: PackageOptions, table: LikeTable | None
) -> tuple[str, ...]:
    """The columns that fill the tensor, in the model's order: its own names, else those the user or the table gives.

    Raises PackageError if they are not as many as the model takes, not in the table, or not numbers.
    """
    known = names is not None and (table is None or all(n in table.columns for n in names))
    if options.columns:
        columns = options.columns
    elif names is not None and known:
        columns = tuple(names)
    else:
        columns = table.features if table is not None else ()
    if columns and len(columns) != width:
        own = f" ({listing(names)})" if names else ""
        raise PackageError(
            f"the model takes {width} columns{own}, but {len(columns)} are given ({listing(columns)}); leave "
            "exactly those it was trained on: --drop, or --columns a,b,… in order"
        )
    for name in columns if table is not None else ():
        facts = table.columns.get(name) if table is not None else None
        if facts is None:
            raise PackageError(f"the model takes {name}, which the table lacks")
        if from_arrow_type(facts.type).json == "string":
            raise PackageError(f"{name} is text in the table, but the model takes numbers: encode it as in training")
    return columns


def booster_draft(
    *,
    convert: Callable[[], Any],
    columns: Sequence[str],
    width: int,
    classes: int,
    task: Task,
    predict: Callable[[pa.RecordBatch], Mapping[str, Array]],
    thresholds: Mapping[int, Array],
    tools: Mapping[str, str],
    options: PackageOptions,
    table: LikeTable | None,
) -> Draft | Unused:
    """The ONNX form of a booster. `classes` is 0 for a model of one value a row; `convert` makes the ModelProto."""
    how = "converted to ONNX with FP32 inputs"
    scores = Output(name="probabilities", datatype="FP32", shape=(-1, classes), labels=tuple(map(str, range(classes))))
    outputs = (Output(name="label", datatype="INT64"), scores) if classes else (Output(name="value", datatype="FP32"),)
    try:
        model = convert()
        rename_outputs(model, [o.name for o in outputs])
    except Exception as error:  # noqa: BLE001 - converters raise what they like
        return Unused(how, f"onnxmltools cannot convert it: {type(error).__name__}: {error}"[:400])
    content = model.SerializeToString()
    names = columns or tuple(f"f{i}" for i in range(width))
    return Draft(
        runtime=RuntimeSpec(name="onnx", artifact=MODEL_FILE, providers=options.providers, threads=options.threads),
        inputs=(Input(name=INPUT, datatype="FP32", shape=(-1, width), columns=tuple(Column(name=c) for c in columns)),),
        outputs=outputs,
        task=task,
        fill=partial(_write, content),
        how=how,
        tools={**tools, "onnxmltools": onnxmltools.__version__, "onnx": onnx.__version__},
        reference=predict,
        probe=None if table is not None else partial(threshold_table, names, thresholds),
    )


def matrix(rows: pa.RecordBatch, columns: Sequence[str]) -> Array:
    """The columns (all of them, if they have no names) as FP64 (n, columns), missing cells as NaN."""
    names = columns or rows.schema.names
    found = [rows.column(n).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) for n in names]
    return np.column_stack(found)


def _write(content: bytes, stage: Path) -> None:
    (stage / MODEL_FILE).write_bytes(content)
