"""Whether the call size changes an answer is measured, and a small difference becomes a declared tolerance."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.packaging import PackageOptions, PackageReport, package_model

MODEL = """
import numpy as np

class Model:
    inputs = {{"x": ("FP32", [-1])}}
    outputs = {{"y": ("FP64", [-1]), "label": ("INT64", [-1])}}

    def predict(self, rows):
        x = rows["x"].astype(np.float64)
        y = x + {error} * len(x)
        return {{"y": y, "label": {label}}}
"""
STEADY = "(x > 0).astype(np.int64)"


def package(directory: Path, error: float, label: str = STEADY, **options: bool) -> PackageReport:
    directory.mkdir(exist_ok=True)
    (directory / "m.py").write_text(MODEL.format(error=error, label=label))
    pq.write_table(pa.table({"x": np.linspace(-1, 1, 50, dtype=np.float32)}), directory / "t.parquet")
    return package_model(
        directory / "m.py", directory / "out", PackageOptions(like=str(directory / "t.parquet"), **options)
    )


def test_an_invariant_model_needs_no_tolerance(tmp_path: Path) -> None:
    report = package(tmp_path, 0.0)
    assert report.invariance == {"y": 0.0}
    assert [o.tolerance for o in report.package.manifest.outputs] == [0, 0]


def test_a_small_difference_becomes_four_times_itself(tmp_path: Path) -> None:
    report = package(tmp_path, 1e-10)
    assert report.invariance["y"] == pytest.approx(999e-10, rel=1e-3)
    assert report.package.manifest.outputs[0].tolerance == 4e-7
    assert report.package.manifest.rows_independent
    assert any("tolerance 4e-07 (4 times that) is declared" in n for n in report.notes)


@pytest.mark.parametrize(("error", "label"), [(1e-3, STEADY), (0.0, "np.full(len(x), len(x) % 2)")])
def test_a_large_one_or_another_label_means_dependent_rows(tmp_path: Path, error: float, label: str) -> None:
    report = package(tmp_path, error, label)
    assert report.package.manifest.rows_independent is False
    assert any("calls are never merged or split" in n for n in report.notes)


def test_a_model_that_is_not_the_same_twice_is_said_to_be_so(tmp_path: Path) -> None:
    """And not that its rows depend on each other."""
    report = package(tmp_path, 0.0, "np.random.default_rng().integers(0, 1000, len(x))")
    assert report.package.manifest.rows_independent
    assert any("gives other answers when it is repeated (label)" in n for n in report.notes)
    assert not any("depend" in n for n in report.notes)


def test_what_the_user_says_stands(tmp_path: Path) -> None:
    assert package(tmp_path, 1e-3, rows_independent=True).package.manifest.rows_independent is True


def test_sizes_that_were_not_compared_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = "(x > 0).astype(np.int64) if len(x) != 7 else 1 / 0"
    report = package(tmp_path, 0.0, failing, repeatable=False)
    assert any(n.startswith("calls of 7 rows were not compared: the model failed: Zero") for n in report.notes)
    monkeypatch.setattr("tidemill.packaging.invariance._BUDGET_S", 0.0)
    shutil.rmtree(tmp_path / "out")
    report = package(tmp_path, 0.0)
    assert any(n.startswith("calls of 1 rows were not compared: the model is too slow") for n in report.notes)


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (5, 4)])
def test_calls_larger_than_the_model_takes_are_not_made(tmp_path: Path, limit: int, kept: int) -> None:
    """By halves every row would be answered, with twice as many calls as rows."""
    report = package(tmp_path, 0.0, f"(x > 0).astype(np.int64) if len(x) <= {limit} else 1 / 0")
    assert report.package.manifest.runtime.max_call_rows == kept
    assert any(n.startswith(f"larger calls than {kept} fail, so that max_call_rows = {kept}: ") for n in report.notes)
    assert report.package.manifest.rows_independent
    assert package(tmp_path / "b", 0.0).package.manifest.runtime.max_call_rows is None
