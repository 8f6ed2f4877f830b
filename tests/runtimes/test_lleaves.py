"""Compiled trees: what the text must be, what the signature may be, and that nothing is ever read but the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.packages import make
from tests.runtimes.packages import boosted_text, compiled_package
from tidemill.errors import PackageError
from tidemill.model.package import Package
from tidemill.model.signature import Column, Input, Output
from tidemill.prediction.live import Live

X = Input(name="X", datatype="FP32", shape=(-1, 6))
LABEL = Output(name="label", datatype="INT64")
SCORES = Output(name="probabilities", datatype="FP32", shape=(-1, 2))
BEFORE = (
    "import numpy as np\n\n\ndef before(rows):\n    return {'X': np.column_stack([rows[f'f{i}'] for i in range(6)])}\n"
)


def package(
    directory: Path, inputs: tuple[Input, ...] = (X,), outputs: tuple[Output, ...] = (LABEL, SCORES)
) -> Package:
    return make(directory, "lleaves", boosted_text(3), inputs, outputs)


def test_loading_writes_nothing_and_reads_no_machine_code(tmp_path: Path) -> None:
    made = compiled_package(tmp_path / "p")
    before = {p: p.read_bytes() for p in made.directory.iterdir()}
    Live.open(made)
    assert {p: p.read_bytes() for p in made.directory.iterdir()} == before
    assert not [p for p in before if p.suffix not in (".txt", ".toml")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("left_child=", "left_child=9999 "),
        ("split_feature=", "split_feature=77 "),
        ("threshold=", "threshold=x "),
        ("objective=binary sigmoid:1", "objective=surprise"),
        ("max_feature_idx=5", "max_feature_idx=1"),
        ("num_class=1", ""),
    ],
)
def test_a_text_that_is_broken(old: str, new: str, tmp_path: Path) -> None:
    text = boosted_text(2)
    assert old in text
    broken = make(tmp_path / "p", "lleaves", text.replace(old, new, 1), [X], [LABEL, SCORES])
    with pytest.raises(PackageError, match=r"model\.txt"):
        Live.open(broken)


def test_a_tree_that_is_its_own_child(tmp_path: Path) -> None:
    lines = boosted_text(1).splitlines(keepends=True)
    text = "".join("left_child=0 0 0 0 0 0\n" if one.startswith("left_child=") else one for one in lines)
    with pytest.raises(PackageError, match=r"model\.txt: lleaves cannot compile it"):
        Live.open(make(tmp_path / "p", "lleaves", text, [X], [LABEL, SCORES]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            (Input(name="X", datatype="FP32", shape=(-1, 5)),),
            r"is FP32 \[-1, 5\], the trees take numbers \[-1, 6\]",
        ),
        ((Input(name="X", datatype="BYTES", shape=(-1, 6)),), "input 'X' is BYTES"),
        ((Input(name="X", datatype="INT32", shape=(-1, 6), nullable=True),), "no missing INT32; declare a fill"),
        ((X, Input(name="moon", datatype="FP32")), "input 'moon' is one too many"),
    ],
)
def test_inputs_that_trees_cannot_take(inputs: tuple[Input, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=message):
        Live.open(package(tmp_path / "p", inputs))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Output(name="value", datatype="FP32"), r"output 'value' is FP32 \[-1\]; the trees give a score for each of 2"),
        (Output(name="p", datatype="FP32", shape=(-1, 3)), r"output 'p' is FP32 \[-1, 3\]; the trees give"),
        (Output(name="label", datatype="INT64", labels=("a", "b")), "output 'label' is INT64, the classes are a, b"),
    ],
)
def test_outputs_that_trees_cannot_give(output: Output, message: str, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=message):
        Live.open(package(tmp_path / "p", outputs=(output,)))


def test_integers_and_columns_are_cells_like_any_other(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(-3, 3, (50, 6))
    columns = tuple(Column(name=f"f{i}") for i in range(6))
    whole = Live.open(package(tmp_path / "i", (Input(name="X", datatype="INT32", shape=(-1, 6), columns=columns),)))
    floats = Live.open(package(tmp_path / "f"))
    found = whole.predict(whole.intake.from_arrays({"X": rows.astype(np.int32)}))
    expected = floats.predict(floats.intake.from_arrays({"X": rows.astype(np.float32)}))
    assert found.outputs["probabilities"].tobytes() == expected.outputs["probabilities"].tobytes()


def test_a_transform_finds_the_usual_names(tmp_path: Path) -> None:
    inputs = [Input(name=f"f{i}", datatype="FP32") for i in range(6)]
    files = {"transform.py": BEFORE}
    made = make(
        tmp_path / "t", "lleaves", boosted_text(3), inputs, [LABEL, SCORES], files=files, transform="transform.py"
    )
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    live, plain = Live.open(made), Live.open(package(tmp_path / "p"))
    found = live.predict(live.intake.from_arrays({f"f{i}": rows[:, i] for i in range(6)}))
    expected = plain.predict(plain.intake.from_arrays({"X": rows}))
    assert found.statuses() == ["ok"] * 50
    for name in ("label", "probabilities"):
        assert np.array_equal(found.outputs[name], expected.outputs[name])
