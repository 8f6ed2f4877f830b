"""What can change an answer changes the fingerprint; what cannot, does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.runtimes.packages import SCORER, SCORER_INPUTS, SCORER_OUTPUTS, WEIGHTS, make
from tidemill.model.manifest import Figures, Optimised, Slo
from tidemill.model.signature import Output
from tidemill.prediction.live import Live

BASE: dict[str, Any] = {
    "artifact": SCORER,
    "inputs": SCORER_INPUTS,
    "outputs": SCORER_OUTPUTS,
    "files": {"weights.json": WEIGHTS, "samples.arrow": "some rows"},
    "samples": "samples.arrow",
}
AFTER = {"transform.py": "def after(rows):\n    return rows\n"}

FIGURES = Figures(metric=0.9, rows_per_second=1e6, p50_ms=0.01, p99_ms=0.02, bytes=1000)
OPTIMISED = Optimised(
    parent="0" * 64,
    parent_version="1",
    how="trees 100 → 70",
    data="rows.parquet",
    rows=100,
    metric="accuracy",
    call_rows=1024,
    machine="any",
    before=FIGURES,
    after=FIGURES,
)


def fingerprint(directory: Path, **change: Any) -> str:
    fields = BASE | change
    return Live.open(make(directory, "python", **fields)).fingerprint


def bounded(**fields: Any) -> tuple[Any, ...]:
    return (msgspec.structs.replace(SCORER_INPUTS[0], **fields), *SCORER_INPUTS[1:])


@pytest.mark.parametrize(
    "change",
    [
        {"artifact": SCORER + "\n# another\n"},
        {"files": BASE["files"] | {"weights.json": WEIGHTS.replace("0.25", "0.26")}},
        {"files": BASE["files"] | AFTER, "transform": "transform.py"},
        {"inputs": bounded(maximum=101)},
        {"inputs": bounded(nullable=True)},
        {"outputs": (*SCORER_OUTPUTS, Output(name="high", datatype="BOOL", source="score", threshold=0.5))},
        {"requirements": (f"msgspec=={msgspec.__version__}",)},
        {"spec": {"threads": 2}},
        {"spec": {"max_call_rows": 8}},
    ],
    ids=[
        "artifact",
        "another file",
        "transform",
        "bound",
        "nullability",
        "output",
        "requirement",
        "threads",
        "call rows",
    ],
)
def test_what_can(change: dict[str, Any], tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b", **change)


@pytest.mark.parametrize(
    "change",
    [
        {"slo": Slo(p99_ms=5)},
        {"files": BASE["files"] | {"samples.arrow": "other rows"}},
        {"description": "what it is for"},
        {"created_at": "2026-11-24T00:00:00Z"},
        {"optimised": OPTIMISED},
    ],
    ids=["slo", "samples", "description", "time", "where it comes from"],
)
def test_what_cannot(change: dict[str, Any], tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b", **change)


def test_the_runtimes_version(tmp_path: Path) -> None:
    package = make(tmp_path / "p", "python", **BASE)
    assert package.fingerprint("python 3.11") != package.fingerprint("python 3.12")
