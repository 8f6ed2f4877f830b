"""Distributions: bounded, the same however the rows are cut, blind to nothing that a gate asks for."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from tidemill.batch.distribution import Collector, Distribution, bounds, ks, merge, psi


def distribution(values: pa.Array | list[object] | np.ndarray) -> Distribution:
    collector = Collector(["y"])
    collector.add(pa.RecordBatch.from_arrays([pa.array(values)], ["y"]))
    return collector.result()["y"]


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_every_number_lies_in_its_bucket(values: list[float]) -> None:
    found = distribution(pa.array(values, pa.float32()))
    assert sum(found.buckets.values()) == found.cells == len(values)
    inside = [0] * len(values)
    for bucket in found.buckets:
        low, high = bounds(bucket)
        for i, value in enumerate(values):
            # The bucket of a number reaches away from zero: (low, high] below it, [low, high) above.
            inside[i] += low <= value < high or low == value or (low < 0 and low < value <= high)
    assert all(inside)
    edges = [bounds(b) for b in sorted(found.buckets)]
    assert edges == sorted(edges)


@given(
    st.lists(st.one_of(st.none(), st.floats(), st.floats(allow_infinity=True))),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_cutting_the_rows_changes_nothing(values: list[float | None], a: int, b: int) -> None:
    whole = distribution(pa.array(values, pa.float64()))
    a, b = min(a, b), max(a, b)
    parts = [{"y": distribution(pa.array(v, pa.float64()))} for v in (values[b:], values[:a], values[a:b])]
    assert merge(parts)["y"] == whole
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Distribution) == whole


def test_nulls_and_nan_are_missing_and_infinity_is_a_number() -> None:
    found = distribution(pa.array([1.0, None, math.nan, math.inf, -math.inf, 1e300]))
    assert (found.cells, found.nulls, sum(found.buckets.values())) == (6, 2, 4)
    assert found.null_rate == pytest.approx(1 / 3)
    assert max(found.buckets.values()) == 2  # what float32 does not reach is infinite


def test_zero_has_one_bucket() -> None:
    assert len(distribution(np.array([0.0, -0.0])).buckets) == 1


@pytest.mark.parametrize("type_", [pa.int8(), pa.uint16(), pa.int64(), pa.float16()])
def test_other_numbers_are_numbers(type_: pa.DataType) -> None:
    values = pa.array(np.array([1, 2, 2, 7])).cast(type_)
    assert list(distribution(values).buckets.values()) == [1, 2, 1]


def test_texts_and_booleans_are_counted_by_value() -> None:
    assert distribution(["no", "yes", None, "no"]).texts == {"no": 2, "yes": 1}
    assert distribution([True, False, True]).texts == {"false": 1, "true": 2}


def test_free_text_is_counted_and_not_kept() -> None:
    found = distribution([f"a sentence about customer {i}" for i in range(100)])
    assert (found.texts, found.others) == ({}, 100)
    found = distribution(["x" * 100, "y"])
    assert (found.texts, found.others) == ({"y": 1}, 1)
    several = [{"y": distribution([f"{start + i}" for i in range(40)])} for start in (0, 1000)]
    assert (merge(several)["y"].texts, merge(several)["y"].others) == ({}, 80)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_what_is_too_much_to_be_named_is_so_in_any_order(order: tuple[int, ...]) -> None:
    parts = [{"y": distribution([f"{i}" for i in range(start, start + 40)])} for start in (0, 40, 60)]
    merged = merge(parts[i] for i in order)["y"]
    assert (merged.texts, merged.others) == ({}, 120)


def test_vectors_are_told_by_element_unless_they_are_long() -> None:
    pair = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 10.0, 2.0, 20.0]), 2)
    long = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(40.0)), 20)
    loose = pa.array([[1.0], [2.0, 3.0]])
    collector = Collector(["pair", "long", "loose"])
    batch = pa.RecordBatch.from_arrays([pair, long, loose], ["pair", "long", "loose"])
    collector.add(batch.slice(1))
    found = collector.result()
    assert list(found) == ["pair[0]", "pair[1]", "long", "loose"]
    assert [d.cells for d in found.values()] == [1, 1, 20, 2]
    assert found["pair[1]"].quantile(0.5) == pytest.approx(20, rel=0.03)


def test_quantiles_are_right_to_three_percent() -> None:
    values = np.random.default_rng(1).lognormal(size=50_000) - 1
    found = distribution(values)
    for q in (0.05, 0.5, 0.95):
        assert found.quantile(q) == pytest.approx(np.quantile(values, q), rel=0.05)
    assert Distribution().quantile(0.5) is None
    assert distribution([math.inf]).quantile(0.5) == math.inf


def test_distances_are_small_for_the_same_and_large_for_another() -> None:
    random = np.random.default_rng(2)
    a, b, moved = random.normal(size=20_000), random.normal(size=20_000), random.normal(0.5, size=20_000)
    same, other = (distribution(a), distribution(b)), (distribution(a), distribution(moved))
    assert psi(*same) < 0.01
    assert psi(*other) > 0.2
    # Against a program that knows nothing of buckets.
    assert ks(*same) == pytest.approx(ks_2samp(a, b).statistic, abs=0.01)
    assert ks(*other) == pytest.approx(ks_2samp(a, moved).statistic, abs=0.01)


@pytest.mark.parametrize("distance", [psi, ks])
def test_distances_of_the_odd(distance) -> None:  # type: ignore[no-untyped-def]
    nothing, one, nan = Distribution(), distribution([0.5] * 100), distribution([math.nan] * 10)
    assert distance(one, one) == 0
    assert distance(nothing, nothing) == distance(nan, nothing) == 0
    assert distance(nothing, one) >= 1
    assert distance(one, nan) >= 1
    assert distance(one, distribution([0.9] * 100)) >= 0.9
    assert distance(distribution([1e-30] * 100), distribution([-1e30] * 100)) >= 0.9
    labels = distribution(["a"] * 90 + ["b"] * 10)
    assert distance(labels, labels) == 0
    assert distance(labels, distribution(["a"] * 10 + ["b"] * 90)) > 0.7
    assert distance(labels, distribution(["c"] * 100)) >= 1
