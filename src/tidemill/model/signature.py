"""The signature: named inputs and outputs of a package, as written in `model.toml`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from tidemill.config import Config
from tidemill.datatypes import DATATYPES, DataType, DataTypeName

__all__ = ["Column", "Input", "Output", "signature_problems"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Scalar = str | int | float | bool


class Column(Config, frozen=True, kw_only=True):
    """One scalar column of a two-dimensional tensor input. It has the tensor's datatype."""

    name: Name
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None


class Input(Config, frozen=True, kw_only=True):
    """One model input.

    `shape` begins with -1 (rows); further -1 are dimensions that vary between calls. `nullable` lets cells be
    missing: NaN in floats, null elsewhere; `fill` is what the model then sees. `minimum` and `maximum` are
    inclusive. `binary` makes BYTES raw bytes instead of UTF-8 text. `columns` names the scalar columns, in
    order, that fill a two-dimensional input.
    """

    name: Name
    datatype: DataTypeName
    shape: tuple[int, ...] = (-1,)
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str | int, ...] = ()
    binary: bool = False
    fill: Scalar | None = None
    columns: tuple[Column, ...] = ()

    @property
    def type(self) -> DataType:
        return DATATYPES[self.datatype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, about: a dimension that varies counts as one, a text as 32 bytes."""
        return math.prod(abs(d) for d in self.shape[1:]) * (self.type.size or 32)


class Output(Config, frozen=True, kw_only=True):
    """One model output.

    `labels` names the classes along the last axis (or the values of an integer label). `tolerance` is the
    absolute difference that modes may show on a float output (0: bit-equal). An output with `from` is derived
    from that score output: with `top_k`, its k best (BYTES: labels, INT64: indices, floats: scores, best
    first); with `threshold`, whether the score (two columns: that of the second class) reaches it (BOOL, or
    BYTES: the label); with neither, the label of the best score (BYTES or INT64).
    """

    name: Name
    datatype: DataTypeName
    shape: tuple[int, ...] = (-1,)
    labels: tuple[str, ...] = ()
    tolerance: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    binary: bool = False
    source: str | None = msgspec.field(default=None, name="from")
    threshold: float | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None

    @property
    def type(self) -> DataType:
        return DATATYPES[self.datatype]


def signature_problems(inputs: tuple[Input, ...], outputs: tuple[Output, ...]) -> Iterator[str]:
    """Every rule of the signature that one field alone cannot show, each as `path: what is wrong`."""
    if not inputs:
        yield "inputs: at least one is required"
    if not outputs:
        yield "outputs: at least one is required"
    yield from _repeated("inputs", [i.name for i in inputs] + [c.name for i in inputs for c in i.columns])
    yield from _repeated("outputs", [o.name for o in outputs])
    for i, one in enumerate(inputs):
        for problem in _input_problems(one):
            yield f"inputs[{i}] ({one.name}): {problem}"
    known: dict[str, Output] = {}
    for i, output in enumerate(outputs):
        for problem in _output_problems(output, known):
            yield f"outputs[{i}] ({output.name}): {problem}"
        known[output.name] = output


def _input_problems(one: Input) -> Iterator[str]:
    yield from _shape_problems(one.shape)
    number = one.datatype not in ("BYTES", "BOOL")
    bounds: list[Input | Column] = [one, *one.columns]
    if not number and any(b.minimum is not None or b.maximum is not None for b in bounds):
        yield f"minimum and maximum are for numbers, not {one.datatype}"
    for b in bounds:
        if any(limit is not None and math.isnan(limit) for limit in (b.minimum, b.maximum)):
            yield f"minimum and maximum of {b.name} must be numbers, got nan"
        if b.minimum is not None and b.maximum is not None and b.minimum > b.maximum:
            yield f"minimum {b.minimum} of {b.name} is above its maximum {b.maximum}"
    if one.categories:
        kind = str if one.datatype == "BYTES" else int
        if one.type.is_float or one.datatype == "BOOL" or one.binary:
            yield "categories are for text and integers"
        elif not all(isinstance(c, kind) for c in one.categories):
            yield f"categories of a {one.datatype} input are {'strings' if kind is str else 'integers'}"
        else:
            yield from (
                f"category {c!r} is not a value of {one.datatype}" for c in one.categories if not _fits(c, one.type)
            )
    if one.binary and one.datatype != "BYTES":
        yield "binary is for BYTES"
    if one.columns and (len(one.shape) != 2 or one.shape[1] not in (-1, len(one.columns))):
        yield f"{len(one.columns)} columns cannot fill shape {list(one.shape)}; it must be [-1, {len(one.columns)}]"
    if one.columns and (one.minimum is not None or one.maximum is not None or one.nullable):
        yield "with columns, nullable, minimum and maximum are given for each column"
    if one.fill is not None and not _fits(one.fill, one.type):
        yield f"fill {one.fill!r} is not a value of {one.datatype}"


def _output_problems(output: Output, known: dict[str, Output]) -> Iterator[str]:
    yield from _shape_problems(output.shape)
    repeated = sorted({label for label in output.labels if output.labels.count(label) > 1})
    if repeated:
        yield f"labels {repeated} are given twice; every class needs a name of its own"
    if output.tolerance and not output.type.is_float:
        yield f"tolerance is for float outputs, not {output.datatype}"
    if output.source is None:
        if output.threshold is not None or output.top_k is not None:
            yield "threshold and top_k need `from`, the score output they read"
        return
    scores = known.get(output.source)
    if scores is None or scores.source is not None or not scores.type.is_float:
        yield f"from = {output.source!r} is not a float output of the model declared above it"
        return
    labels = output.labels or scores.labels
    if output.threshold is not None and math.isnan(output.threshold):
        yield "threshold must be a number, got nan"
    if output.threshold is not None and output.top_k is not None:
        yield "threshold and top_k exclude each other"
    elif output.top_k is not None:
        if len(scores.shape) == 2 and 0 < scores.shape[1] < output.top_k:
            yield f"top_k = {output.top_k} asks for more than the {scores.shape[1]} scores of {scores.name}"
        if output.shape != (-1, output.top_k):
            yield f"top_k = {output.top_k} gives shape [-1, {output.top_k}], not {list(output.shape)}"
        if output.datatype not in ("BYTES", "INT64", scores.datatype):
            yield f"top_k gives BYTES (labels), INT64 (indices) or {scores.datatype} (scores), not {output.datatype}"
    elif output.threshold is not None:
        if output.datatype not in ("BOOL", "BYTES"):
            yield f"threshold gives BOOL or BYTES (the label), not {output.datatype}"
        if not (len(scores.shape) == 1 or (len(scores.shape) == 2 and scores.shape[1] in (1, 2))):
            yield f"threshold needs one score a row or two; {scores.name} has shape {list(scores.shape)}"
        if output.datatype == "BYTES" and len(labels) != 2:
            yield f"threshold as BYTES needs exactly two labels, got {len(labels)}"
    elif output.datatype not in ("BYTES", "INT64"):
        yield f"the best class is BYTES (its label) or INT64 (its index), not {output.datatype}"
    if output.datatype == "BYTES" and not labels:
        yield f"needs labels, here or on {scores.name}"
    if output.threshold is None and len(scores.shape) != 2:
        yield f"needs scores of shape [-1, classes]; {scores.name} has {list(scores.shape)}"


def _shape_problems(shape: tuple[int, ...]) -> Iterator[str]:
    if not shape or shape[0] != -1:
        yield f"shape {list(shape)} must begin with -1, the rows"
    if any(d == 0 or d < -1 for d in shape):
        yield f"shape {list(shape)} may hold -1 and positive numbers only"


def _fits(value: Any, type_: DataType) -> bool:
    kinds: dict[str, tuple[type, ...]] = {
        "boolean": (bool,),
        "integer": (int,),
        "number": (int, float),
        "string": (str,),
    }
    right = isinstance(value, kinds[type_.json]) and (type_.json == "boolean" or not isinstance(value, bool))
    if not right or type_.json != "integer":
        return right
    info = np.iinfo(type_.dtype)
    return bool(info.min <= int(value) <= info.max)


def _repeated(where: str, names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{where}: the name {name!r} is used twice"
        seen.add(name)
