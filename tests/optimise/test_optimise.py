"""A network and a tree ensemble on real data: what is offered, what is refused, and the package that comes out."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import models
from tests.optimise.support import boosted, network
from tests.runtimes.packages import graph
from tidemill.assurance.checks import run_checks
from tidemill.assurance.verify import verify
from tidemill.batch import score
from tidemill.errors import ConfigError, InputError, NothingGained, PackageError
from tidemill.model.package import open_package, write_package
from tidemill.optimise import OptimiseOptions, Report, optimise
from tidemill.optimise.options import Candidate
from tidemill.optimise.run import differences
from tidemill.packaging import PackageOptions, describe, package_model
from tidemill.prediction.live import Live


def options(table: Path, **more: Any) -> OptimiseOptions:
    fields = {"evaluate": str(table), "target": "target", "metric": "accuracy", "max_drop": 0.02}
    return OptimiseOptions(**(fields | more))


def by_name(report: Report) -> dict[str, Candidate]:
    return {c.name: c for c in report.candidates}


def tried(package: Path, asked: OptimiseOptions) -> Report:
    """The report, whether or not anything was gained."""
    try:
        return optimise(package, asked)
    except NothingGained as error:
        assert isinstance(error.report, Report)  # noqa: PT017 - which of the two it is depends on the machine
        return error.report


@pytest.fixture(scope="module")
def network_report(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Everything that a network can be, the dynamic form written."""
    asked = options(
        models.digits_table(models_dir),
        quantise=("static", "fp16", "dynamic"),
        prune=(0.25, 0.97),
        out=str(tmp_path_factory.mktemp("network") / "dynamic"),
        choose="prune0.25-dynamic",
    )
    return optimise(network(models_dir).directory, asked)


@pytest.fixture(scope="module")
def trees_report(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Everything that trees can be, the pruned and compiled form written."""
    asked = options(
        models.cancer_table(models_dir),
        metric="roc_auc",
        prune=(0.3,),
        out=str(tmp_path_factory.mktemp("trees") / "fast"),
        choose="prune0.3-compiled",
    )
    return optimise(boosted(models_dir).directory, asked)


def test_every_form_is_measured_on_the_same_rows(network_report: Report, models_dir: Path) -> None:
    kinds = ["", "-static", "-fp16", "-dynamic"]
    pruned = [f"prune{share}{kind}" for share in (0.25, 0.97) for kind in kinds]
    assert list(by_name(network_report)) == ["graph", "static", "fp16", "dynamic", *pruned]
    rows = pq.read_table(models.digits_table(models_dir)).num_rows
    assert network_report.rows + network_report.calibration_rows == rows
    assert network_report.fingerprint == Live.open(network(models_dir)).fingerprint
    for one in [network_report.parent, *(c.figures for c in network_report.candidates)]:
        assert one.rows_per_second > 0
        assert 0 < one.p50_ms <= one.p99_ms
    for one in network_report.candidates:
        assert 0 < one.batch.low <= one.batch.middle <= one.batch.high
        assert one.drop == pytest.approx(network_report.parent.metric - one.figures.metric)


def test_the_simplified_graph_answers_as_before(network_report: Report) -> None:
    assert by_name(network_report)["graph"].differences == {"label": 0.0, "probabilities": pytest.approx(0, abs=1e-6)}


def test_a_ruined_form_is_refused_whatever_it_gains(network_report: Report) -> None:
    ruined = by_name(network_report)["prune0.97"]
    assert ruined.how == "hidden units 64 → 2, 64 → 2"
    assert ruined.drop > 0.3
    assert ruined.size < 0.5
    assert ruined.gains
    assert ruined.verdict == "metric"
    assert network_report.best is None or not network_report.best.startswith("prune0.97")


def test_quantised_and_pruned_forms_are_smaller_and_keep_the_metric(network_report: Report) -> None:
    found = by_name(network_report)
    for name in ("static", "fp16", "dynamic", "prune0.25"):
        assert found[name].size < 0.8, name
        assert found[name].drop < 0.02, name
        assert found[name].verdict == "offered", name
    assert found["prune0.25"].size < found["graph"].size
    assert found["prune0.25-static"].size < found["static"].size


def test_dynamic_quantisation_says_that_rows_depend_on_each_other(network_report: Report) -> None:
    found = by_name(network_report)
    assert [name for name, one in found.items() if not one.rows_independent] == [
        "dynamic", "prune0.25-dynamic", "prune0.97-dynamic",
    ]  # fmt: skip
    written = open_package(str(network_report.written)).manifest
    assert not written.rows_independent
    assert written.origin is not None
    assert any("the scale is that of the whole call; calls are never merged" in note for note in written.origin.notes)


def test_what_is_written_is_a_package_of_its_own(network_report: Report, models_dir: Path) -> None:
    parent, made = network(models_dir), open_package(str(network_report.written))
    assert made.name == parent.name
    assert made.version == "1-prune0.25-dynamic"
    assert made.manifest.inputs == parent.manifest.inputs
    assert made.manifest.slo == parent.manifest.slo
    assert made.manifest.profile == parent.manifest.profile
    assert Live.open(made).fingerprint != Live.open(parent).fingerprint
    told = made.manifest.optimised
    assert told is not None
    assert told.parent == Live.open(parent).fingerprint
    assert told.parent_version == parent.version
    assert told.before == network_report.parent
    assert told.after == by_name(network_report)["prune0.25-dynamic"].figures
    assert describe(made)["optimised"] == msgspec.to_builtins(told)
    assert not [c for c in run_checks(made.directory) if c.verdict == "fail"]


def test_trees_are_pruned_and_compiled(trees_report: Report) -> None:
    found = by_name(trees_report)
    assert list(found) == ["graph", "compiled", "prune0.3", "prune0.3-compiled"]
    assert found["prune0.3"].how == "trees 40 → 28"
    assert found["compiled"].differences["label"] == 0.0
    assert found["compiled"].differences["probabilities"] < 1e-6
    assert found["prune0.3"].size < 0.8
    assert trees_report.unused == {}


def test_a_compiled_package_passes_every_check_and_every_mode_agrees(trees_report: Report) -> None:
    made = open_package(str(trees_report.written))
    assert made.manifest.runtime.name == "lleaves"
    assert not [c for c in run_checks(made.directory) if c.verdict == "fail"]
    assert verify(made.directory, rows=200).agrees


def test_scoring_confirms_the_metric(trees_report: Report, models_dir: Path, tmp_path: Path) -> None:
    table = models.cancer_table(models_dir)
    score(str(trees_report.written), table, tmp_path / "out.parquet")
    label = pq.read_table(tmp_path / "out.parquet")["label"].to_numpy()
    truth = pq.read_table(table)["target"].to_numpy()
    assert len(label) == len(truth)
    assert np.mean(label == truth) > 0.95


def test_a_guard_of_nothing_lets_only_what_is_as_good_through(models_dir: Path) -> None:
    asked = options(models.digits_table(models_dir), metric="log_loss", max_drop=0.0, prune=(0.5,))
    report = tried(network(models_dir).directory, asked)
    pruned = by_name(report)["prune0.5"]
    assert pruned.drop > 0
    assert pruned.verdict == "metric"
    assert all(c.drop <= 1e-9 for c in report.candidates if c.verdict == "offered")


def test_a_form_that_was_refused_cannot_be_chosen(models_dir: Path, tmp_path: Path) -> None:
    asked = options(models.digits_table(models_dir), prune=(0.97,), out=str(tmp_path / "out"), choose="prune0.97")
    with pytest.raises(
        ConfigError, match=r"--choose prune0\.97: not offered \(accuracy is worse by 0\.\d+, and 0\.02 is"
    ):
        optimise(network(models_dir).directory, asked)
    assert not (tmp_path / "out").exists()


def test_a_form_that_there_is_not_cannot_be_chosen_either(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("ReduceSum", ["x", "axes"], ["value"], keepdims=0)]
    content = graph(nodes, {"x": ("FP32", ["n", 2])}, {"value": ("FP32", ["n"])}, {"axes": np.array([1])})
    (tmp_path / "sum.onnx").write_bytes(content)
    package_model(tmp_path / "sum.onnx", tmp_path / "sum", PackageOptions(columns=("a", "b"), task="regression"))
    x = np.random.default_rng(0).normal(size=(200, 2))
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "target": x.sum(axis=1)}), tmp_path / "rows.parquet")
    asked = options(tmp_path / "rows.parquet", metric="rmse", quantise=("static",), prune=(0.5,), choose="static")
    with pytest.raises(ConfigError, match=r"--choose static: not offered \(it has no products of matrices"):
        optimise(tmp_path / "sum", asked)


# -- what does not fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"target": "churned"},
            InputError,
            "--target churned: .*cancer.parquet has no such column; it has",
        ),
        ({"target": "mean_radius"}, ConfigError, "--target mean_radius: the model reads it"),
        ({"metric": "rmse"}, ConfigError, "--metric rmse is of one number a row, which cancer"),
        ({"output": "label", "metric": "roc_auc"}, ConfigError, "--metric roc_auc is of classes"),
        ({"evaluate": "nowhere.parquet"}, InputError, "nowhere.parquet"),
    ],
)
def test_what_does_not_fit(change: Any, error: Any, message: str, models_dir: Path) -> None:
    asked = options(models.cancer_table(models_dir), **change)
    with pytest.raises(error, match=message):
        optimise(boosted(models_dir).directory, asked)


@pytest.mark.parametrize("rows", [0, 20])
def test_a_table_of_too_few_rows(rows: int, models_dir: Path, tmp_path: Path) -> None:
    table = pq.read_table(models.cancer_table(models_dir)).slice(0, rows)
    pq.write_table(table, tmp_path / "few.parquet")
    message = "has no rows" if not rows else "20 rows have a truth and an answer; .* takes 50 at least"
    with pytest.raises(InputError, match=message):
        optimise(boosted(models_dir).directory, options(tmp_path / "few.parquet"))


def test_rows_without_a_truth_or_an_answer_are_left_out_and_counted(models_dir: Path, tmp_path: Path) -> None:
    table = pq.read_table(models.cancer_table(models_dir))
    truth = table["target"].to_pylist()
    truth[:30] = [None] * 30
    radius = table["mean_radius"].to_pylist()
    radius[30:40] = [None] * 10
    table = table.set_column(table.column_names.index("target"), "target", pa.array(truth))
    table = table.set_column(table.column_names.index("mean_radius"), "mean_radius", pa.array(radius))
    pq.write_table(table, tmp_path / "holes.parquet")
    report = tried(boosted(models_dir).directory, options(tmp_path / "holes.parquet", quantise=("fp16",)))
    assert report.rows + report.calibration_rows == table.num_rows - 40
    assert report.notes[0] == "30 rows have no target, and are left out"
    assert report.notes[1].startswith("10 rows have no answer, and are left out: mean_radius")
    assert report.unused == {
        "fp16": "it has no products of matrices (Gemm, MatMul, Conv) to compute in lower precision"
    }


def test_a_package_that_is_not_onnx(models_dir: Path) -> None:
    package = models.python_model(models_dir)
    with pytest.raises(PackageError, match="adder runs through python, and only ONNX packages are optimised"):
        optimise(package.directory, options(models.cancer_table(models_dir)))


def test_a_target_that_exists_is_left_alone(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(PackageError, match="out exists; choose another --out, or pass --overwrite"):
        optimise(boosted(models_dir).directory, options(models.cancer_table(models_dir), out=str(tmp_path / "out")))


def test_a_transform_stands_before_the_pruned_model_as_it_did(models_dir: Path, tmp_path: Path) -> None:
    """Calibration rows go through intake, fills and transform: without it the units that matter would be others."""
    parent = network(models_dir)
    code = "def before(rows):\n    return {'X': rows['X'] / 16}\n"

    def fill(stage: Path) -> None:
        for name in parent.manifest.files:
            (stage / name).write_bytes(parent.path(name).read_bytes())
        (stage / "transform.py").write_text(code)
        (stage / str(parent.manifest.samples)).unlink()

    manifest = msgspec.structs.replace(parent.manifest, transform="transform.py", samples=None)
    write_package(tmp_path / "raw", manifest, fill)
    table = pq.read_table(models.digits_table(models_dir))
    pixels = table["X"].combine_chunks().flatten().to_numpy() * 16
    column = pa.FixedSizeListArray.from_arrays(pa.array(pixels), 64)
    pq.write_table(pa.table({"X": column, "target": table["target"]}), tmp_path / "raw.parquet")
    asked = options(tmp_path / "raw.parquet", prune=(0.25,), out=str(tmp_path / "out"), choose="prune0.25")
    report = optimise(tmp_path / "raw", asked)
    assert report.parent.metric > 0.9
    assert by_name(report)["prune0.25"].drop < 0.02
    made = open_package(tmp_path / "out")
    assert made.manifest.transform == "transform.py"
    assert made.path("transform.py").read_text() == code
    assert not [c for c in run_checks(made.directory) if c.verdict == "fail"]
    assert math.isfinite(report.noise)


def test_a_graph_of_fixed_rows_is_told_of_and_not_pruned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        onnx.helper.make_node("Relu", ["h"], ["r"]),
        onnx.helper.make_node("MatMul", ["r", "v"], ["value"]),
    ]
    weights = {"w": rng.normal(size=(2, 8)), "b": rng.normal(size=8), "v": rng.normal(size=(8, 1))}
    constants = {name: value.astype(np.float32) for name, value in weights.items()}
    (tmp_path / "four.onnx").write_bytes(graph(nodes, {"x": ("FP32", [4, 2])}, {"value": ("FP32", [4, 1])}, constants))
    package_model(tmp_path / "four.onnx", tmp_path / "four", PackageOptions(columns=("a", "b"), task="regression"))
    x = rng.normal(size=(100, 2))
    truth = np.where(np.arange(100) % 10, x.sum(axis=1), np.nan)
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "target": truth}), tmp_path / "rows.parquet")
    report = tried(tmp_path / "four", options(tmp_path / "rows.parquet", metric="mae", prune=(0.5,)))
    assert report.unused["prune0.5"].startswith("its inside cannot be looked at: InvalidArgument")
    assert report.notes[0] == "10 rows have no target, and are left out"
    assert report.rows + report.calibration_rows == 90


def test_a_form_that_answers_no_numbers_is_infinitely_far_and_refused() -> None:
    one, nan = np.array([1.0, 2.0], np.float32), np.array([1.0, np.nan], np.float32)
    labels = np.array(["a", "b"], object)
    assert differences({"x": one, "y": labels}, {"x": nan, "y": labels[::-1]}) == {"x": math.inf, "y": 1.0}
    assert differences({"x": nan}, {"x": nan}) == {"x": 0.0}
    assert differences({"x": one}, {"x": one[:, None]}) == {"x": math.inf}


@pytest.mark.parametrize("absent", ["onnx", "lleaves"])
def test_what_is_not_installed_is_one_line(absent: str, models_dir: Path) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None; from tidemill.cli import main; main()"
    asked = ["--target", "target", "--metric", "accuracy", "--max-drop", "0.1", "--prune", "0.3", "--json"]
    rows = ["--evaluate", str(models.cancer_table(models_dir))]
    command = [sys.executable, "-c", code, "optimise", str(boosted(models_dir).directory), *rows, *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = f"(module {absent}) needs the 'optimise' extra: pip install 'tidemill[optimise]'"
    if absent == "onnx":
        assert done.returncode == 2
        assert done.stderr.strip() == f"error: optimising {told}"
    else:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["unused"] == {"compiled": f"compiling trees {told}"}
