"""`package`, `inspect`, `check` and `verify`: what they print, for people and machines, and how they end."""

import json
from pathlib import Path

from tests import models
from tests.assurance.support import python_package
from tests.cli.support import tidemill
from tidemill.assurance.checks import CHECKS
from tidemill.model.package import open_package


def test_package_takes_every_flag(models_dir: Path, tmp_path: Path) -> None:
    models.onnx_trees(models_dir)
    out = tmp_path / "made"
    first, second = models.open_package(models_dir / "trees").manifest.inputs[0].columns[:2]
    done = tidemill(
        "package", models_dir / "trees.onnx", "--like", models_dir / "cancer.parquet", "--drop", "target",
        "--name", "cancer", "--version", "2.1", "--task", "classification", "--description", "A test",
        "--bound", f"{first.name}=1:", "--nullable", second.name, "--labels", "malignant,benign", "--p99-ms", 5,
        "--timeout-ms", 500, "--samples", 7, "--tolerance", "probabilities=1e-6", "--not-repeatable", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "cancer version 2.1" in done.stdout
    assert f"tidemill check {out}" in done.stdout
    manifest = open_package(out).manifest
    assert (manifest.name, manifest.version, manifest.description) == ("cancer", "2.1", "A test")
    assert (manifest.slo.p99_ms, manifest.slo.timeout_ms, manifest.repeatable) == (5, 500, False)
    assert manifest.inputs[0].columns[0].minimum == 1
    assert manifest.inputs[0].columns[1].nullable
    assert {o.name: o.tolerance for o in manifest.outputs}["probabilities"] == 1e-6


def test_package_says_what_it_did_as_json(models_dir: Path, tmp_path: Path) -> None:
    models.onnx_trees(models_dir)
    out = tmp_path / "made"
    done = tidemill("package", models_dir / "trees.onnx", "--out", out, "--json")
    report = json.loads(done.stdout)
    assert report["directory"] == str(out)
    assert report["name"] == "trees"
    assert report["notes"]


def test_package_names_a_flag_that_cannot_be_read(models_dir: Path, tmp_path: Path) -> None:
    for flags, message in (
        (["--bound", "age"], "NAME=MINIMUM:MAXIMUM"),
        (["--tolerance", "x=small"], "--tolerance 'x=small': expected NAME=NUMBER"),
        (["--fill", "age"], "NAME=VALUE"),
        (["--task", "guessing"], "task"),
        (["--kind", "pickle"], "kind"),
        (["--threads", "0"], "threads"),
    ):
        done = tidemill("package", models_dir / "trees.onnx", "--out", tmp_path / "made", *flags)
        assert done.exit_code == 2, done.stderr
        assert message in done.stderr
    assert not (tmp_path / "made").exists()


def test_inspect_for_people_shows_rules_origin_and_files(models_dir: Path) -> None:
    package = models.sklearn_pipeline(models_dir)
    done = tidemill("inspect", package.directory)
    assert done.exit_code == 0
    for text in ("pipeline version 1", "BYTES", "divorced, married", "missing", "bad/good", "onnxruntime", "SHA-256"):
        assert text in done.stdout
    assert "[-1, 2]" in done.stdout


def test_inspect_for_machines(package: Path) -> None:
    found = json.loads(tidemill("inspect", package, "--json").stdout)
    assert found["name"] == "tiny"
    assert found["inputs"][0]["maximum"] == 100


def test_a_changed_file_is_refused_by_name(package: Path) -> None:
    with open(package / "model.py", "a") as file:
        file.write("\n")
    for command in ("inspect", "check", "verify", "serve"):
        done = tidemill(command, package)
        assert done.exit_code == 1
        assert "model.py" in done.stderr


def test_check_passes_and_prints_every_check(package: Path) -> None:
    done = tidemill("check", package)
    assert done.exit_code == 0
    for check in CHECKS:
        assert check.__name__ in done.stdout
    assert "0 failed" in done.stdout
    found = json.loads(tidemill("check", package, "--json").stdout)
    assert found["ok"]
    assert [c["name"] for c in found["checks"]] == [check.__name__ for check in CHECKS]


def test_check_ends_with_1_when_one_fails(tmp_path: Path) -> None:
    package = python_package(tmp_path, "return {'score': rows['x'] * np.float32('nan')}").directory
    done = tidemill("check", package)
    assert done.exit_code == 1
    assert "1 failed" in done.stdout
    found = json.loads(tidemill("check", package, "--json").stdout)
    assert not found["ok"]
    assert [c["name"] for c in found["checks"] if c["verdict"] == "fail"] == ["answers_rows"]


def test_verify_prints_a_table_of_modes(package: Path, table: Path) -> None:
    done = tidemill("verify", package, "--input", table, "--rows", 1000)
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert ["REST", "binary", "1,000", "1,000", "0", "1,000", "1,000"] in [line[:7] for line in lines]
    assert f"all modes agree: 1,000 rows from {table}, 100 of them bad on purpose" in done.stdout


def test_verify_ends_with_1_and_names_the_difference(tmp_path: Path) -> None:
    unequal = "return {'score': np.full(len(rows['x']), os.getpid(), np.float32)}"
    package = python_package(tmp_path, unequal, head="import os").directory
    done = tidemill("verify", package, "--rows", 20, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert not found["agrees"]
    # Batch answers a Python model in processes of its own, too.
    assert [m["equal"] for m in found["modes"]] == [20, 2, 2, 2, 2]
    assert found["modes"][1]["difference"].startswith("score[0]")
