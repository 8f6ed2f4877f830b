"""What the part `engines` stands on: outputs compared in whatever order, ratios round by round, goals said plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import engines
from benchmarks.batch import Score, WrongOutputError


def written(folder: Path, order: list[int], *, fixed: bool, change: bool = False) -> Path:
    """Two vectors and a label a row, in parts of two rows, as engines write them."""
    folder.mkdir()
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    if change:
        values[3, 1] = np.nextafter(values[3, 1], np.float32(99))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values[order].reshape(-1)), 2)
    column = vectors if fixed else vectors.cast(pa.list_(pa.float32()))
    table = pa.table({"probabilities": column, "label": pa.array(np.array(order)), "_status": ["ok"] * 6})
    for i in range(3):
        pq.write_table(table.slice(2 * i, 2), folder / f"part-{i}.parquet")
    return folder


def test_the_same_values_in_another_order_and_type_have_the_same_sums(tmp_path: Path) -> None:
    one = engines.sums(written(tmp_path / "a", [0, 1, 2, 3, 4, 5], fixed=True), 6)
    other = engines.sums(written(tmp_path / "b", [5, 3, 1, 0, 2, 4], fixed=False), 6)
    assert one == other
    assert [name for name, *_ in one] == ["label", "probabilities"]


def test_one_bit_and_one_row_are_noticed(tmp_path: Path) -> None:
    right = engines.sums(written(tmp_path / "a", [0, 1, 2, 3, 4, 5], fixed=True), 6)
    assert engines.sums(written(tmp_path / "b", [0, 1, 2, 3, 4, 5], fixed=True, change=True), 6) != right
    with pytest.raises(WrongOutputError, match="a holds 6 rows of 7"):
        engines.sums(tmp_path / "a", 7)


def test_goals_are_of_the_median_round(tmp_path: Path) -> None:
    working = {program: [2.1, 2.1, 2.2] for program in engines.LABELS}
    working |= {"local": [1.1, 1.0, 0.9], "spark_hand": [2.0, 2.0, 2.0], "ray_hand": [6.0, 10.0, 10.0]}
    scores = [
        Score(
            program=program,
            round=number,
            rows_per_second=1,
            seconds=1,
            cpu_seconds=1,
            peak_mb=100,
            processes=3,
            others=0,
        )
        for program in engines.LABELS
        for number in (1, 2, 3)
    ]
    result = engines.EnginesResult(
        settings=engines.Settings(rows=600, rounds=3), cores="cores 0,1", scores=scores, working=working, equal=True
    )
    assert [(goal[1], goal[3]) for goal in engines.goals(result)] == [
        ("0.95", "met"),
        ("2.00", "met"),
        ("2.10", "**not met**"),
        ("10.00", "met"),
        ("yes", "met"),
    ]
    assert "| map_batches tuned by hand | 60 (60 to 100) | 0.10 (0.09 to 0.18) |" in engines.section(result)
