"""What the table and the user add to a signature: nulls, fills, bounds, categories; labels, threshold, top-k."""

from __future__ import annotations

import msgspec

from tidemill.datatypes import DataTypeName
from tidemill.errors import ConfigError, PackageError
from tidemill.model.signature import Column, Input, Output
from tidemill.packaging.draft import Draft
from tidemill.packaging.options import PackageOptions
from tidemill.packaging.table import ColumnFacts, LikeTable

__all__ = ["decorated_inputs", "decorated_outputs"]


def decorated_inputs(
    inputs: tuple[Input, ...], options: PackageOptions, table: LikeTable | None, draft: Draft | None
) -> tuple[tuple[Input, ...], list[str]]:
    """The inputs with what was learned and said, and notes on it. `draft` is what reads them, None for a transform.

    Raises ConfigError for names that are no inputs, PackageError for missing cells that the model cannot be given.
    """
    _check_names(inputs, options)
    facts = table.columns if table is not None else {}
    emptied: list[str] = []
    found = tuple(_decorated(one, draft, options, facts, emptied) for one in inputs)
    return found, [f"missing text reaches the model as the empty string: {', '.join(emptied)}"] if emptied else []


def _check_names(inputs: tuple[Input, ...], options: PackageOptions) -> None:
    names = {i.name for i in inputs} | {c.name for i in inputs for c in i.columns}
    problems = [
        f"{flag} {name}: the model has no such input or column; it has {', '.join(sorted(names))}"
        for flag, given in (("--nullable", options.nullable), ("--bound", options.bounds), ("--fill", options.fill))
        for name in given
        if name not in names
    ]
    if problems:
        raise ConfigError(problems)


def _decorated(
    one: Input, draft: Draft | None, options: PackageOptions, facts: dict[str, ColumnFacts], emptied: list[str]
) -> Input:
    if one.columns:
        cells = tuple(_cell(c, options, facts.get(c.name)) for c in one.columns)
        one = msgspec.structs.replace(one, columns=cells, fill=_tensor_fill(one, options))
        missing = next((c.name for c in cells if c.nullable), None)
    else:
        seen = facts.get(one.name)
        low, high = _bounds(one.name, options, seen if one.shape == (-1,) else None)
        text = seen is not None and seen.is_text and one.datatype == "BYTES" and one.shape == (-1,)
        one = msgspec.structs.replace(
            one,
            nullable=one.name in options.nullable or (seen is not None and seen.missing > 0) or one.nullable,
            minimum=low,
            maximum=high,
            categories=seen.categories(options.max_categories) if text and seen is not None else one.categories,
            fill=options.fill.get(one.name, one.fill),
        )
        missing = one.name if one.nullable else None
    if missing is None or one.fill is not None or one.type.is_float:
        return one
    if draft is None or draft.runtime.name != "onnx":
        return one
    if one.datatype == "BYTES" and draft.empty_text_is_missing:
        emptied.append(one.name)
        return msgspec.structs.replace(one, fill="")
    seen = facts.get(missing)
    count = f"{seen.missing} of {seen.count} cells of" if seen is not None and seen.missing else "cells of"
    raise PackageError(
        f"{count} {missing} are missing, and the model's {one.datatype} has no value for that: say what it shall see "
        f"(--fill {one.name if one.columns else missing}=VALUE), or take those rows out of the table"
    )


def _cell(cell: Column, options: PackageOptions, seen: ColumnFacts | None) -> Column:
    low, high = _bounds(cell.name, options, seen)
    nullable = cell.name in options.nullable or (seen is not None and seen.missing > 0)
    return Column(name=cell.name, nullable=nullable, minimum=low, maximum=high)


def _bounds(name: str, options: PackageOptions, seen: ColumnFacts | None) -> tuple[float | None, float | None]:
    if name in options.bounds:
        return options.bounds[name]
    if options.learn_bounds and seen is not None:
        return seen.minimum, seen.maximum
    return None, None


def _tensor_fill(one: Input, options: PackageOptions) -> str | int | float | bool | None:
    given = [c.name for c in one.columns if c.name in options.fill]
    if given:
        raise ConfigError(
            f"--fill {given[0]}: it is a column of {one.name}, whose missing cells share one value: --fill {one.name}=…"
        )
    return options.fill.get(one.name, one.fill)


def decorated_outputs(outputs: tuple[Output, ...], options: PackageOptions) -> tuple[Output, ...]:
    """The outputs with labels on the scores, and `above_threshold`, `top_labels` and `top_scores` where asked for.

    Raises ConfigError where there is no score output to read, or more than one, or an unknown name.
    """
    unknown = [n for n in options.tolerance if n not in {o.name for o in outputs}]
    if unknown:
        raise ConfigError(
            f"--tolerance {unknown[0]}: no such output; the model has {', '.join(o.name for o in outputs)}"
        )
    if not options.labels and options.threshold is None and options.top_k is None:
        return outputs
    scores = _scores(outputs, options)
    if options.labels:
        width = scores.shape[1] if len(scores.shape) == 2 else 2
        if width not in (-1, len(options.labels)):
            raise ConfigError(f"--labels: {len(options.labels)} given, but {scores.name} has {width} scores a row")
        labelled = msgspec.structs.replace(scores, labels=options.labels)
        outputs = tuple(labelled if o.name == scores.name else o for o in outputs)
        scores = labelled
    added: list[Output] = []
    if options.threshold is not None:
        added.append(Output(name="above_threshold", datatype="BOOL", source=scores.name, threshold=options.threshold))
    if options.top_k is not None:
        shape = (-1, options.top_k)
        kind = "top_labels" if scores.labels else "top_indices"
        datatype: DataTypeName = "BYTES" if scores.labels else "INT64"
        added.append(Output(name=kind, datatype=datatype, shape=shape, source=scores.name, top_k=options.top_k))
        added.append(
            Output(name="top_scores", datatype=scores.datatype, shape=shape, source=scores.name, top_k=options.top_k)
        )
    return (*outputs, *added)


def _scores(outputs: tuple[Output, ...], options: PackageOptions) -> Output:
    wide = [o for o in outputs if o.type.is_float and len(o.shape) == 2]
    found = wide or [o for o in outputs if o.type.is_float and len(o.shape) == 1 and options.top_k is None]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(f"{o.name} {o.datatype}{list(o.shape)}" for o in outputs)
    raise ConfigError(f"--labels, --threshold and --top-k need exactly one output of scores; the model has {shown}")
