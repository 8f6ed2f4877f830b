"""Does the packaged model answer what the original did? Compared through the path, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tidemill.errors import PackageError
from tidemill.model.signature import Output
from tidemill.packaging.draft import Reference
from tidemill.prediction.live import Live
from tidemill.rows import Array, Rows

__all__ = ["ABSOLUTE", "RELATIVE", "Comparison", "compare", "disagreement"]

# A converted model computes in FP32 where the original used FP64: 1e-5 is some eighty units in the last place of a
# number near 1. A row that fell on the other side of a split differs by far more.
ABSOLUTE = 1e-5
RELATIVE = 1e-5
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """`differences`: output → greatest absolute difference (of labels: the share that differs). `worst`: some rows."""

    rows: int
    differences: dict[str, float]
    wrong: int
    worst: tuple[str, ...]


def compare(live: Live, table: pa.RecordBatch, reference: Reference) -> Comparison:
    """Ask the original and the path the same rows.

    Raises PackageError where the path refuses or fails rows that the original answers.
    """
    original = reference(table)
    result = live.predict(_given(live, table))
    # Rows outside bounds the user gave are meant to be refused; a failing model is not.
    failed = [p for p in result.problems if p.code == "model_failed"]
    if failed:
        raise PackageError(
            f"{len(failed)} rows fail that the original answers: row {failed[0].row}: {failed[0].message}"
        )
    good = result.answered
    if not good.any():
        first = result.problems[0]
        raise PackageError(f"the signature refuses every row of the table: row {first.row}: {first.message}")
    differences: dict[str, float] = {}
    wrong = np.zeros(result.n, np.bool_)
    worst: list[str] = []
    for output in live.package.manifest.outputs:
        want = original.get(output.name)
        if output.source is not None or want is None:
            continue
        got, want = result.outputs[output.name], np.asarray(want).reshape(result.outputs[output.name].shape)
        differences[output.name], bad = _difference(output, got, want, good)
        worst += [
            f"row {row}: {output.name} is {_cell(got[row])}, the original says {_cell(want[row])}"
            for row in np.flatnonzero(bad & ~wrong)[:_SHOWN]
        ]
        wrong |= bad
    if not differences:
        raise PackageError("no output could be compared with the original")
    return Comparison(int(good.sum()), differences, int(wrong.sum()), tuple(worst[:_SHOWN]))


def disagreement(found: Comparison, outputs: Sequence[Output]) -> str:
    """What to tell if the models disagree; empty if they agree."""
    if not found.wrong:
        return ""
    by = ", ".join(f"{n} by up to {d:.2g}" for n, d in found.differences.items() if d)
    return (
        f"{found.wrong} of {found.rows} rows disagree with the original beyond {ABSOLUTE:g} absolute plus "
        f"{RELATIVE:g} relative ({by}); {'; '.join(found.worst)}"
    )


def _given(live: Live, table: pa.RecordBatch) -> Rows:
    """The table as the package's inputs: one tensor without named columns is filled by all of them, in order."""
    inputs = live.intake.inputs
    if len(inputs) > 1 or inputs[0].columns or inputs[0].name in table.schema.names:
        return live.intake.from_arrow(table)
    matrix = np.column_stack([np.asarray(c.to_numpy(zero_copy_only=False)) for c in table.columns])
    return live.intake.from_arrays({inputs[0].name: matrix}, cast=True)


def _difference(output: Output, got: Array, want: Array, good: Array) -> tuple[float, Array]:
    if not output.type.is_float:
        bad = np.array([a != b for a, b in zip(got.ravel().tolist(), want.ravel().tolist(), strict=True)], np.bool_)
        per_row = bad.reshape(len(got), -1).any(axis=1) & good
        return float(per_row.sum() / max(1, good.sum())), per_row
    a, b = got.astype(np.float64), want.astype(np.float64)
    close = np.isclose(a, b, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True).reshape(len(a), -1).all(axis=1)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b).reshape(len(a), -1)[good]
    finite = apart[np.isfinite(apart)]
    return float(finite.max()) if finite.size else 0.0, ~close & good


def _cell(value: object) -> str:
    text = np.array2string(value, precision=8, separator=", ") if isinstance(value, np.ndarray) else f"{value!s}"
    return text[:120]
