"""The command: its table, its plot, its JSON, and an exit code of its own where nothing is gained."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import models
from tests.cli.support import tidemill
from tests.optimise.support import boosted
from tests.packages import make
from tests.runtimes.packages import graph
from tidemill.model.signature import Column, Input, Output
from tidemill.optimise import measure


def test_a_table_a_plot_and_a_package(models_dir: Path, tmp_path: Path) -> None:
    done = tidemill(
        "optimise", boosted(models_dir).directory, "--evaluate", models.cancer_table(models_dir), "--target", "target",
        "--metric", "accuracy", "--max-drop", 0.02, "--prune", 0.3, "--plot", tmp_path / "forms.svg",
        "--choose", "prune0.3", "--version", "2", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "accuracy" in rows["form"]
    assert "offered" in rows["prune0.3"]
    assert "prune0.3: trees 40 → 28; " in done.stdout
    assert f"written to {tmp_path / 'out'}" in done.stdout
    picture = ET.parse(tmp_path / "forms.svg").getroot()
    told = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"as it is", "graph", "compiled", "prune0.3", "prune0.3-compiled"} <= set(told)
    inspected = tidemill("inspect", tmp_path / "out").stdout
    assert "cancer version 2" in inspected
    assert "optimised    trees 40 → 28; of version 1, fingerprint" in inspected


def test_json_has_everything(models_dir: Path) -> None:
    done = tidemill(
        "optimise", boosted(models_dir).directory, "--evaluate", models.cancer_table(models_dir), "--target", "target",
        "--metric", "log_loss", "--max-drop", 0.05, "--prune", "0.2,0.4", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [c["name"] for c in found["candidates"]][-2:] == ["prune0.4", "prune0.4-compiled"]
    assert {"metric", "rows_per_second", "p50_ms", "p99_ms", "bytes"} == found["parent"].keys()
    assert found["written"] is None


def sums(directory: Path) -> tuple[Path, Path]:
    """A package that adds two numbers, in which nothing can be won, and rows for it."""
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["value"])
    ones = pa.array([1.0, 1.0], pa.float32()).to_numpy().reshape(2, 1)
    content = graph([node], {"x": ("FP32", ["n", 2])}, {"value": ("FP32", ["n", 1])}, {"w": ones})
    inputs = [Input(name="x", datatype="FP32", shape=(-1, 2), columns=(Column(name="a"), Column(name="b")))]
    outputs = [Output(name="value", datatype="FP32", shape=(-1, 1))]
    make(directory / "sums", "onnx", content, inputs, outputs, task="regression")
    a, b = list(range(100)), [x % 7 for x in range(100)]
    rows = {"a": a, "b": b, "truth": [x + y for x, y in zip(a, b, strict=True)]}
    pq.write_table(pa.table(rows), directory / "rows.parquet")
    return directory / "sums", directory / "rows.parquet"


def test_nothing_gained_has_an_exit_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever else runs on the machine: nothing is ten times as quick.
    monkeypatch.setattr(measure, "_LEAST_NOISE", 10.0)
    package, rows = sums(tmp_path)
    done = tidemill(
        "optimise", package, "--evaluate", rows, "--target", "truth", "--metric", "rmse", "--max-drop", 0,
        "--prune", 0.5, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 4
    assert "not offered: neither quicker nor smaller beyond the noise" in done.stdout
    assert "prune0.5: not tried: no hidden dense layer and no tree ensemble loses anything at a share" in done.stdout
    assert "error: no form of tiny is worth having: 1 of 1 are neither quicker nor smaller" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prune", "1.5"], "optimise: prune[0]: expected `float` < 1.0, got 1.5"),
        (["--prune", "0"], "optimise: prune[0]: expected `float` > 0.0, got 0.0"),
        (["--prune", "half"], "--prune 'half': expected shares between 0 and 1, as 0.3 or 0.2,0.5"),
        (["--quantise", "int4"], "optimise: quantise[0]: expected one of 'static', 'fp16', 'dynamic', got 'int4'"),
        (["--metric", "f1"], "optimise: metric: expected one of 'accuracy'"),
        (["--max-drop", "-1"], "optimise: max_drop: expected `float` >= 0.0, got -1.0"),
        (["--choose", "static"], "--choose says which form to write: say where with --out"),
        (["--metric", "accuracy"], "--metric accuracy is of classes, which tiny (regression) does not give"),
        (["--target", "b"], "--target b: the model reads it, so that it is no truth to judge by"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, tmp_path: Path) -> None:
    package, rows = sums(tmp_path)
    usual = {"--evaluate": rows, "--target": "truth", "--metric": "rmse", "--max-drop": "0"}
    given = usual | dict(zip(arguments[::2], arguments[1::2], strict=True))
    done = tidemill("optimise", package, *(part for pair in given.items() for part in pair))
    assert done.exit_code == 2
    assert message in done.stderr


def test_no_such_column_and_no_such_package(tmp_path: Path) -> None:
    package, rows = sums(tmp_path)
    asked = ["--evaluate", rows, "--metric", "rmse", "--max-drop", "0"]
    done = tidemill("optimise", package, *asked, "--target", "truht")
    assert done.exit_code == 1
    assert "--target truht: " in done.stderr
    assert "has no such column; it has a, b, truth" in done.stderr
    done = tidemill("optimise", tmp_path / "nowhere", *asked, "--target", "truth")
    assert done.exit_code == 1
    assert "not a model package" in done.stderr
