"""scikit-learn estimators and Pipelines saved with skops: converted to ONNX where that agrees, else run as they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sklearn
import skops
import skops.io
from sklearn.base import BaseEstimator, is_classifier, is_outlier_detector, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from tidemill.datatypes import DataTypeName, from_arrow_type, from_numpy_dtype
from tidemill.errors import PackageError, listing
from tidemill.model.manifest import RuntimeSpec, Task
from tidemill.model.signature import Column, Input, Output
from tidemill.packaging.draft import Draft, Unused
from tidemill.packaging.onnx_source import MODEL_FILE
from tidemill.packaging.options import PackageOptions
from tidemill.packaging.probe import number_table
from tidemill.packaging.sklearn_onnx import convert
from tidemill.packaging.table import LikeTable
from tidemill.rows import Array
from tidemill.runtimes.sklearn import METHODS, knows_none, parts

__all__ = ["drafts"]

SKOPS_FILE = "model.skops"
INPUT = "input"


def drafts(source: Path, options: PackageOptions, table: LikeTable | None) -> Iterator[Draft | Unused]:
    """ONNX with FP32 inputs, ONNX with FP64 inputs, then skops.

    Raises PackageError for types that are not trusted, and for a table without the columns it was fitted on.
    """
    estimator = _load(source, options.trusted)
    _check_fitted(estimator, source)
    model = _Fitted.of(estimator, options, table)
    for datatype in ("FP32", "FP64"):
        how = f"converted to ONNX with {datatype} inputs"
        try:
            yield _onnx_draft(model, datatype, how, options)
        except PackageError as error:
            yield Unused(how, str(error))
    yield _skops_draft(model, source, options)


def _load(source: Path, trusted: Sequence[str]) -> Any:
    try:
        untrusted = sorted(set(skops.io.get_untrusted_types(file=source)) - set(trusted))
        if untrusted:
            flags = " ".join(f"--trusted {name}" for name in untrusted)
            raise PackageError(
                f"{source.name}: holds types that are not trusted: {', '.join(untrusted)}; if you know where the file "
                f"is from, name them: {flags}"
            )
        return skops.io.load(source, trusted=list(trusted))
    except PackageError:
        raise
    except Exception as error:
        raise PackageError(f"{source.name}: skops cannot load it: {type(error).__name__}: {error}") from error


def _check_fitted(estimator: Any, source: Path) -> None:
    if not isinstance(estimator, BaseEstimator):
        raise PackageError(
            f"{source.name}: holds a {type(estimator).__name__}, expected a fitted scikit-learn estimator or Pipeline"
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        raise PackageError(
            f"{source.name}: the {type(estimator).__name__} is not fitted: fit it, then save it"
        ) from None


@dataclass(frozen=True, slots=True)
class _Fitted:
    """An estimator, the columns it takes in order ((), if they have no names), and what it answers to some rows."""

    estimator: Any
    columns: tuple[str, ...]
    width: int
    types: Mapping[str, pa.DataType]
    named: bool
    outputs: tuple[str, ...]
    answers: Mapping[str, Array]
    real: bool

    @classmethod
    def of(cls, estimator: Any, options: PackageOptions, table: LikeTable | None) -> _Fitted:
        names = getattr(estimator, "feature_names_in_", None)
        width = int(getattr(estimator, "n_features_in_", 1))
        outputs = _outputs(estimator)
        if table is None and _reads_text(estimator):
            raise PackageError(f"{type(estimator).__name__} was fitted on text columns: pass --like TABLE to say which")
        if table is None:
            columns = options.columns if names is None else tuple(str(n) for n in names)
            rows = number_table(columns or tuple(f"f{i}" for i in range(width)))
        else:
            columns = _table_columns(names, width, options, table)
            rows = table.rows
        if len(columns or range(width)) != width:
            raise PackageError(f"--columns: the model takes {width}, {len(columns)} are named")
        used = columns or tuple(rows.schema.names)
        try:
            answers = _answers(estimator, used, outputs, rows)
        except Exception as error:
            advice = "" if table is not None else "; it may take text or other types: pass --like TABLE"
            raise PackageError(
                f"{type(estimator).__name__} cannot answer {'the table' if table is not None else 'rows of numbers'}: "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{advice}"
            ) from error
        types = {n: rows.schema.field(n).type for n in used}
        return cls(estimator, columns, width, types, names is not None, outputs, answers, table is not None)

    @property
    def numeric(self) -> bool:
        return all(from_arrow_type(t).json != "string" for t in self.types.values())

    @property
    def task(self) -> Task:
        if is_classifier(self.estimator) or is_outlier_detector(self.estimator):
            return "classification"
        return "regression" if is_regressor(self.estimator) else "other"

    def labels(self) -> tuple[str, ...]:
        return tuple(str(c) for c in getattr(self.estimator, "classes_", ()))

    def reference(self, rows: pa.RecordBatch) -> Mapping[str, Array]:
        return _answers(self.estimator, self.columns or tuple(rows.schema.names), self.outputs, rows)

    def packed(self, datatype: DataTypeName) -> tuple[Input, ...]:
        """One tensor of all columns."""
        cells = tuple(Column(name=n) for n in self.columns)
        return (Input(name=INPUT, datatype=datatype, shape=(-1, self.width), columns=cells),)

    def named_outputs(self, datatypes: Sequence[DataTypeName]) -> tuple[Output, ...]:
        """The outputs in the shapes that the estimator itself answers."""
        found = []
        for name, datatype in zip(self.outputs, datatypes, strict=True):
            shape = (-1, *self.answers[name].shape[1:])
            labels = self.labels()
            scores = name in ("probabilities", "decision") and len(shape) == 2 and shape[1] == len(labels)
            found.append(Output(name=name, datatype=datatype, shape=shape, labels=labels if scores else ()))
        return tuple(found)


def _reads_text(estimator: Any) -> bool:
    """Whether an encoder or imputer in it learned strings; `handle_unknown` may let it take numbers without a word."""
    learned = [c for part in parts(estimator) for c in getattr(part, "categories_", ())]
    learned += [part.statistics_ for part in parts(estimator) if hasattr(part, "statistics_")]
    return any(np.asarray(values).dtype.kind in "OUST" for values in learned)


def _outputs(estimator: Any) -> tuple[str, ...]:
    if hasattr(estimator, "predict_proba"):
        return ("label", "probabilities")
    if is_regressor(estimator):
        return ("value",)
    if hasattr(estimator, "predict"):
        return ("label", "decision") if hasattr(estimator, "decision_function") else ("label",)
    if hasattr(estimator, "transform"):
        return ("transformed",)
    raise PackageError(f"{type(estimator).__name__} has neither predict nor transform")


def _table_columns(names: Any, width: int, options: PackageOptions, table: LikeTable) -> tuple[str, ...]:
    wanted = options.columns or (table.features if names is None else tuple(str(n) for n in names))
    absent = [n for n in wanted if n not in table.features]
    if absent:
        why = "dropped" if all(n in table.columns for n in absent) else "not in it"
        raise PackageError(
            f"the model takes {listing(absent)}, which the table lacks ({why}); it has {listing(table.features)}"
        )
    if len(wanted) != width:
        raise PackageError(
            f"the model takes {width} columns, but the table has {len(wanted)} ({listing(wanted)}); "
            "leave exactly those it was trained on: --drop, or --columns a,b,… in order"
        )
    return tuple(wanted)


def _answers(estimator: Any, columns: Sequence[str], outputs: Sequence[str], rows: pa.RecordBatch) -> dict[str, Array]:
    given = _frame(estimator, columns, rows)
    found: dict[str, Array] = {}
    for name in outputs:
        answer = getattr(estimator, METHODS[name])(given)
        if isinstance(answer, list):
            raise PackageError("a model of several targets with probabilities is not carried: package one a target")
        found[name] = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    return found


def _frame(estimator: Any, columns: Sequence[str], rows: pa.RecordBatch) -> Any:
    """The table as its author would have read it with pandas: what the estimator was fitted on."""
    plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in (rows.column(n) for n in columns)]
    frame = pa.Table.from_arrays(plain, names=list(columns)).to_pandas()
    if not knows_none(estimator):
        for name in columns:
            if frame[name].dtype == object:
                frame[name] = frame[name].where(frame[name].notna(), np.nan)
    if getattr(estimator, "feature_names_in_", None) is not None:
        return frame
    if not hasattr(estimator, "n_features_in_"):
        return frame[columns[0]].to_numpy()
    return frame.to_numpy()


def _onnx_draft(model: _Fitted, datatype: DataTypeName, how: str, options: PackageOptions) -> Draft:
    """Raises PackageError if no form of the inputs can be converted."""
    tries: list[tuple[Input, ...]] = [model.packed(datatype)] if model.numeric else []
    if model.columns:
        tries.append(
            tuple(
                Input(name=n, datatype="BYTES" if from_arrow_type(t).json == "string" else datatype)
                for n, t in model.types.items()
            )
        )
    reason = ""
    for inputs in tries:
        try:
            content, datatypes, tools = convert(model.estimator, inputs, model.outputs)
        except Exception as error:  # noqa: BLE001 - converters raise what they like, and the next form may do
            first = str(error).strip().splitlines()
            reason = reason or f"{type(error).__name__}: {first[0] if first else ''}"[:300]
            continue
        return Draft(
            runtime=RuntimeSpec(name="onnx", artifact=MODEL_FILE, providers=options.providers, threads=options.threads),
            inputs=inputs,
            outputs=model.named_outputs(datatypes),
            task=model.task,
            fill=partial(_write, content),
            how=how,
            tools={**tools, "scikit-learn": sklearn.__version__, "skops": skops.__version__},
            empty_text_is_missing=True,
            reference=model.reference,
            probe=None if model.real else partial(number_table, tuple(model.types)),
        )
    raise PackageError(f"skl2onnx cannot convert it: {reason}")


def _skops_draft(model: _Fitted, source: Path, options: PackageOptions) -> Draft:
    inputs: tuple[Input, ...]
    if model.numeric and (not model.real or not model.named):
        inputs = model.packed("FP64")
    else:
        inputs = tuple(Input(name=n, datatype=from_arrow_type(t).name) for n, t in model.types.items())
    datatypes = [from_numpy_dtype(model.answers[n].dtype).name for n in model.outputs]
    return Draft(
        runtime=RuntimeSpec(name="sklearn", artifact=SKOPS_FILE, threads=options.threads, trusted=options.trusted),
        inputs=inputs,
        outputs=model.named_outputs(datatypes),
        task=model.task,
        fill=partial(_copy, source),
        how="run through skops",
        tools={"scikit-learn": sklearn.__version__, "skops": skops.__version__, "pandas": pd.__version__},
        requirements=(f"scikit-learn=={sklearn.__version__}",),
        reference=model.reference,
        probe=None if model.real else partial(number_table, tuple(model.types)),
    )


def _write(content: bytes, stage: Path) -> None:
    (stage / MODEL_FILE).write_bytes(content)


def _copy(source: Path, stage: Path) -> None:
    shutil.copyfile(source, stage / SKOPS_FILE)
