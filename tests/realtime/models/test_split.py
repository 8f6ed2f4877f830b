"""How calls are shared: by weight at random, or by a hash of the key that is the same in every process."""

import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from tidemill.realtime.models.split import Split, by_key, key_of
from tidemill.rows import Rows

KEYS = [f"customer-{i}".encode() for i in range(20_000)]
ROWS = Rows({"x": np.zeros(1)}, 1)


def chi_square(counts: Counter[str], weights: dict[str, float]) -> float:
    total, whole = sum(counts.values()), sum(weights.values())
    return sum((counts[n] - total * w / whole) ** 2 / (total * w / whole) for n, w in weights.items() if w)


def test_a_draw_follows_the_weights() -> None:
    weights = {"1": 0.9, "2": 0.07, "3": 0.03, "4": 0.0}
    versions = {name: (weight, name) for name, weight in weights.items()}
    split = Split("fraud", versions, "1", None, random.Random(7).random)
    counts = Counter(split.choose(ROWS) for _ in range(50_000))
    assert counts["4"] == 0
    assert chi_square(counts, weights) < 13.8, "p = 0.001 at two degrees of freedom"


@pytest.mark.parametrize("weights", [{"1": 90.0, "2": 10.0}, {"a": 1.0, "b": 1.0, "c": 2.0}, {"only": 0.5}])
def test_keys_follow_the_weights(weights: dict[str, float]) -> None:
    counts = Counter(by_key("fraud", weights, key) for key in KEYS)
    assert chi_square(counts, weights) < 13.8


def test_a_change_of_weights_moves_only_the_difference() -> None:
    before = {key: by_key("fraud", {"1": 95, "2": 5}, key) for key in KEYS}
    after = {key: by_key("fraud", {"1": 80, "2": 20}, key) for key in KEYS}
    moved = Counter((before[key], after[key]) for key in KEYS if before[key] != after[key])
    assert set(moved) == {("1", "2")}, "nobody goes back"
    assert moved["1", "2"] / len(KEYS) == pytest.approx(0.15, abs=0.01)
    third = {key: by_key("fraud", {"1": 80, "2": 20, "3": 25}, key) for key in KEYS}
    assert {third[key] for key in KEYS if third[key] != after[key]} == {"3"}
    assert before == {key: by_key("fraud", {"1": 9.5, "2": 0.5}, key) for key in KEYS}, "weights are relative"


def test_models_are_shared_independently_of_each_other() -> None:
    weights = {"1": 1.0, "2": 1.0}
    same = sum(by_key("fraud", weights, key) == by_key("churn", weights, key) for key in KEYS)
    assert same / len(KEYS) == pytest.approx(0.5, abs=0.02)


def test_every_process_chooses_alike() -> None:
    program = (
        "from tidemill.realtime.models.split import by_key\n"
        "print(''.join(by_key('fraud', {'1': 2, '2': 1}, f'customer-{i}'.encode()) for i in range(200)))"
    )
    here = "".join(by_key("fraud", {"1": 2, "2": 1}, key) for key in KEYS[:200])
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here


def test_the_key_is_the_first_rows_inputs_or_what_the_caller_says() -> None:
    rows = Rows({"id": np.array([7, 8]), "name": np.array(["é", "b"], object), "x": np.zeros((2, 2))}, 2)
    assert key_of(rows, ("id", "name")) == "7\0é".encode()
    assert key_of(rows.slice(1, 2), ("id",)) == b"8"
    versions = {str(i): (1.0, str(i)) for i in range(50)}
    split = Split("fraud", versions, "0", ("id",))
    assert split.choose(rows) == by_key("fraud", dict.fromkeys(versions, 1.0), b"7")
    assert split.choose(rows, b"customer-9") == by_key("fraud", dict.fromkeys(versions, 1.0), b"customer-9")


@pytest.mark.parametrize(
    "rows",
    [
        Rows({"x": np.zeros(1)}, 1),
        Rows({"id": np.zeros((1, 2))}, 1),
        Rows({"id": np.array([np.nan])}, 1),
        Rows({"id": np.array([None], object)}, 1),
        Rows({"id": np.array([3])}, 1, {"id": np.array([False])}),
        Rows({"id": np.array([], np.int64)}, 0),
    ],
)
def test_without_a_key_the_default_answers(rows: Rows) -> None:
    assert key_of(rows, ("id",)) is None
    assert Split("fraud", {"1": (1.0, "1"), "2": (1.0, "2")}, "default", ("id",)).choose(rows) == "default"
