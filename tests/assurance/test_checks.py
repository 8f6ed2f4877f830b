"""Every check passes on real packages, and each finds the one fault it is for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from tests import models
from tests.assurance.support import SCORE, X, every_datatype, python_package, twice
from tidemill.assurance.checks import CHECKS, Checked, run_checks
from tidemill.model.manifest import Slo
from tidemill.model.package import Package
from tidemill.model.signature import Output

REAL = [models.onnx_trees, models.onnx_network, models.sklearn_pipeline, models.skops_pipeline, models.python_model]


def failed(package: Package) -> dict[str, Checked]:
    return {c.name: c for c in run_checks(package) if c.verdict == "fail"}


@pytest.mark.parametrize("model", REAL, ids=lambda m: m.__name__)
def test_real_packages_keep_their_word(model: Callable[[Path], Package], models_dir: Path) -> None:
    found = run_checks(model(models_dir).directory)
    assert [c.name for c in found] == [check.__name__ for check in CHECKS]
    # What a call costs is the machine's affair here.
    assert [c for c in found if c.verdict == "fail" and c.name != "latency_profile"] == []
    verdicts = {c.name: c.verdict for c in found}
    assert verdicts["samples_reproduce"] == "pass"
    assert verdicts["nulls"] == "pass"


@pytest.mark.parametrize("make", [twice, every_datatype])
def test_small_packages_keep_their_word(make: Callable[[Path], Package], tmp_path: Path) -> None:
    assert failed(make(tmp_path)) == {}


def test_every_check_says_what_it_asks() -> None:
    assert all(check.__doc__ for check in CHECKS)


FAULTS: dict[str, dict[str, Any]] = {
    "samples_reproduce": {"predict": "return {'score': rows['x'] * np.float32(3)}"},
    "answers_rows": {"predict": "return {'score': rows['x'] * np.float32('nan')}"},
    "repeats": {
        "predict": "return {'score': rows['x'] * np.float32(next(calls))}",
        "head": "import itertools\ncalls = itertools.count()",
    },
    "single_equals_batched": {"predict": "return {'score': rows['x'] - rows['x'].mean()}"},
    "shuffled_rows": {"predict": "return {'score': rows['x'] + np.float32(rows['x'][0])}"},
    "many_rows": {"predict": "return {'score': rows['x'] + np.float32(len(rows['x']) > 5000)}"},
    "thread_safety": {
        "predict": "seen['x'] = rows['x']\ntime.sleep(0.002)\nreturn {'score': np.resize(seen['x'], len(rows['x']))}",
        "head": "import time\nseen = {}",
    },
    "latency_profile": {"predict": "time.sleep(0.002)\nreturn {'score': rows['x']}", "head": "import time"},
}


@pytest.mark.parametrize("check", FAULTS)
def test_a_fault_is_found_by_its_check(check: str, tmp_path: Path) -> None:
    x, score = pa.array([1, 2, 3, 50], pa.float32()), pa.array([2, 4, 6, 100], pa.float32())
    more: dict[str, Any] = {"samples": ({"x": x}, {"score": score})}
    if check == "latency_profile":
        more["slo"] = Slo(p99_ms=1.0)
    found = failed(python_package(tmp_path, **FAULTS[check], **more))
    assert check in found
    assert found[check].figures


def test_a_text_output_outside_its_labels_is_found(tmp_path: Path) -> None:
    label = Output(name="score", datatype="BYTES", labels=("low", "high"))
    package = python_package(
        tmp_path, "return {'score': np.array(['medium'] * len(rows['x']), object)}", outputs=[label]
    )
    assert "'medium'" in failed(package)["answers_rows"].figures


def test_a_model_that_fails_at_a_limit_it_allows_is_found(tmp_path: Path) -> None:
    package = python_package(tmp_path, "assert (rows['x'] < 100).all()\nreturn {'score': rows['x']}")
    assert "x 100 is allowed" in failed(package)["bounds"].figures


def test_a_model_that_fails_on_an_allowed_null_is_found(tmp_path: Path) -> None:
    maybe = msgspec.structs.replace(X, nullable=True)
    predict = "assert not np.isnan(rows['x']).any()\nreturn {'score': rows['x']}"
    package = python_package(tmp_path, predict, inputs=[maybe])
    assert "x missing is allowed" in failed(package)["nulls"].figures


def test_rows_that_depend_on_each_other_skip_what_they_cannot_keep(tmp_path: Path) -> None:
    package = python_package(
        tmp_path, "return {'score': rows['x'] - rows['x'].mean()}", outputs=[SCORE], rows_independent=False
    )
    verdicts = {c.name: c.verdict for c in run_checks(package)}
    assert verdicts["single_equals_batched"] == verdicts["shuffled_rows"] == verdicts["many_rows"] == "skip"
    assert "fail" not in verdicts.values()
