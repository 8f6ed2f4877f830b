"""The gate: what it asks, and of which run."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tidemill.batch.distribution import Collector
from tidemill.batch.jobs.gate import Figures, Gate, judge


def figures(read: int = 1000, dead: int = 0, *, score: np.ndarray | None = None, label: str = "low") -> Figures:
    score = np.linspace(0, 1, 500) if score is None else score
    collector = Collector(["score", "label"])
    columns = [pa.array(score), pa.array([label] * len(score))]
    collector.add(pa.RecordBatch.from_arrays(columns, ["score", "label"]))
    return Figures(read=read, dead=dead, outputs=collector.result())


def failed(gate: Gate, now: Figures, before: Figures | None = None) -> list[str]:
    return [c.name for c in judge(gate, now, before) if not c.passed]


def test_a_gate_that_asks_nothing_checks_nothing() -> None:
    assert judge(Gate(), figures(), figures(1)) == ()


@pytest.mark.parametrize(
    ("gate", "now", "wrong"),
    [
        (Gate(min_rows=1000), figures(1000), []),
        (Gate(min_rows=1001), figures(1000), ["min_rows"]),
        (Gate(max_error_rate=0.01), figures(dead=10), []),
        (Gate(max_error_rate=0.01), figures(dead=11), ["max_error_rate"]),
        (Gate(max_error_rate=0), figures(0, score=np.array([])), []),
        (Gate(max_null_rate=0.5), figures(score=np.array([1, np.nan])), []),
        (Gate(max_null_rate=0.4), figures(score=np.array([1, np.nan])), ["max_null_rate of score"]),
        (Gate(max_null_rate={"label": 0}), figures(score=np.array([1, np.nan])), []),
        (Gate(max_null_rate={"score": 0}), figures(score=np.array([1, np.nan])), ["max_null_rate of score"]),
    ],
)
def test_what_is_asked_of_every_run(gate: Gate, now: Figures, wrong: list[str]) -> None:
    assert failed(gate, now) == wrong


@pytest.mark.parametrize(
    ("gate", "now", "wrong"),
    [
        (Gate(max_change=0.1), figures(1100), []),
        (Gate(max_change=0.1), figures(1101), ["max_change"]),
        (Gate(max_change=0.1), figures(899), ["max_change"]),
        (Gate(max_change=0.1), figures(0, score=np.array([])), ["max_change"]),
        (Gate(max_psi=0.1, max_ks=0.1), figures(), []),
        (Gate(max_psi=0.1), figures(score=np.linspace(0.5, 1, 500)), ["max_psi of score"]),
        (Gate(max_ks=0.1), figures(label="high"), ["max_ks of label"]),
        (Gate(max_psi=0.1), figures(score=np.array([])), ["max_psi of label", "max_psi of score"]),
    ],
)
def test_what_is_asked_in_view_of_the_last_run(gate: Gate, now: Figures, wrong: list[str]) -> None:
    assert failed(gate, now, figures()) == wrong
    assert failed(gate, now) == []


def test_a_check_says_what_was_found_and_what_is_allowed() -> None:
    [check] = judge(Gate(max_change=0.1), figures(1200), figures(1000))
    assert check.told == "1,200 rows were read, 1,000 in the last run (max_change = 0.1)"
    assert (check.found, check.limit) == (0.2, 0.1)


def test_elements_of_a_vector_have_the_limit_of_their_output() -> None:
    pair = pa.FixedSizeListArray.from_arrays(pa.array([1.0, np.nan]), 2)
    collector = Collector(["pair"])
    collector.add(pa.RecordBatch.from_arrays([pair], ["pair"]))
    now = Figures(read=1, dead=0, outputs=collector.result())
    assert failed(Gate(max_null_rate={"pair": 0.1}), now) == ["max_null_rate of pair[1]"]
