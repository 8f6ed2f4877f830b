"""Derived outputs: labels, thresholds and the k best, from the scores of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidemill.model.signature import Output
from tidemill.prediction.derive import derivation

LABELS = ("low", "middle", "high")


def derive(scores: Any, declared: Output | None = None, **fields: Any) -> list[Any]:
    array = np.asarray(scores, np.float32)
    shape = (-1, *array.shape[1:])
    source = declared or Output(
        name="p", datatype="FP32", shape=shape, labels=LABELS[: array.shape[-1]] if array.ndim > 1 else ()
    )
    return derivation(Output(name="d", source="p", **fields), source)(array).tolist()


def test_the_best_class() -> None:
    scores = [[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]
    assert derive(scores, datatype="BYTES") == ["high", "low"]
    assert derive(scores, datatype="INT64") == [2, 0]
    assert derive(scores, datatype="BYTES", labels=("x", "y", "z")) == ["z", "x"]


def test_a_tie_goes_to_the_first_class() -> None:
    assert derive([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]], datatype="INT64") == [0, 1]


def test_a_threshold_is_reached_at_itself_in_the_scores_precision() -> None:
    scores = np.array([[0.7, 0.3], [0.71, 0.29], [0.2, 0.8]], np.float32)
    assert derive(scores, datatype="BOOL", threshold=0.3) == [True, False, True]
    assert derive(scores, datatype="BYTES", threshold=0.3) == ["middle", "low", "middle"]


def test_a_threshold_on_one_score_a_row() -> None:
    for scores in ([0.2, 0.5, 0.9], [[0.2], [0.5], [0.9]]):
        assert derive(scores, datatype="BOOL", threshold=0.5) == [False, True, True]
        assert derive(scores, datatype="BYTES", threshold=0.5, labels=("no", "yes")) == ["no", "yes", "yes"]


def test_nan_reaches_no_threshold() -> None:
    assert derive([np.nan, 1.0], datatype="BOOL", threshold=0.5) == [False, True]


def test_the_k_best() -> None:
    scores = [[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]
    assert derive(scores, datatype="BYTES", shape=(-1, 2), top_k=2) == [["high", "middle"], ["low", "middle"]]
    assert derive(scores, datatype="INT64", shape=(-1, 2), top_k=2) == [[2, 1], [0, 1]]
    assert derive(scores, datatype="FP32", shape=(-1, 1), top_k=1) == [[np.float32(0.7)], [0.5]]


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 7)), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])
    ),
    st.data(),
)
def test_ties_keep_the_order_of_the_classes_at_every_call_size(scores: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, scores.shape[1]))
    source = Output(name="p", datatype="FP32", shape=(-1, scores.shape[1]))
    best = derivation(Output(name="d", datatype="INT64", shape=(-1, k), source="p", top_k=k), source)
    found = best(scores)
    for row, order in zip(scores.tolist(), found.tolist(), strict=True):
        assert order == sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
    alone = np.vstack([best(scores[i : i + 1]) for i in range(len(scores))])
    assert alone.tolist() == found.tolist()
    assert found.dtype == np.int64
    values = derivation(Output(name="d", datatype="FP32", shape=(-1, k), source="p", top_k=k), source)(scores)
    assert values.tolist() == np.take_along_axis(scores, found, axis=1).tolist()


def test_more_asked_for_than_there_are() -> None:
    with pytest.raises(ValueError, match="top_k = 4, but there are 3 scores a row"):
        derive([[0.1, 0.2, 0.7]], datatype="INT64", shape=(-1, 4), top_k=4)


def test_a_class_without_a_label() -> None:
    source = Output(name="p", datatype="FP32", shape=(-1, -1), labels=("a", "b"))
    with pytest.raises(ValueError, match="class 2 has no label: 2 are declared"):
        derive([[0.1, 0.2, 0.7]], source, datatype="BYTES")
