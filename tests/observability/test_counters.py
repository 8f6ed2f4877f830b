"""Sums with the meanings of Triton's statistics extension."""

import time

from tidemill.observability.counters import Counters


def test_durations_are_of_the_parts_they_name() -> None:
    counters = Counters()
    now = time.monotonic()
    counters.succeeded(64, now - 1.0, now - 0.9, now - 0.7, now - 0.4, now - 0.1, now - 0.05)
    counters.executed(64, 0.0, 0.3, 0.1)
    counters.failed(now - 2.0, "late")
    found = counters.snapshot()
    assert found["inference_count"] == 64
    stats = found["inference_stats"]
    expected = {
        "success": 1.0,
        "queue": 0.3,
        "compute_input": 0.2,
        "compute_infer": 0.3,
        "compute_output": 0.1,
        "fail": 2.0,
    }
    for name, seconds in expected.items():
        assert stats[name]["count"] == 1
        assert seconds <= stats[name]["ns"] / 1e9 + 1e-6 < seconds + 0.5
    assert abs(found["last_inference"] / 1e3 - time.time()) < 5


def test_batch_sizes_are_told_apart_and_bounded() -> None:
    counters = Counters()
    for rows in range(1, 5001):
        counters.executed(rows, 0.001, 0.002, 0.003)
    found = counters.snapshot()
    assert found["execution_count"] == 5000
    assert len(found["batch_stats"]) < 100
    assert sum(b["compute_infer"]["count"] for b in found["batch_stats"]) == 5000
    assert found["batch_stats"][0] == {
        "batch_size": 1,
        "compute_input": {"count": 1, "ns": 1_000_000},
        "compute_infer": {"count": 1, "ns": 2_000_000},
        "compute_output": {"count": 1, "ns": 3_000_000},
    }


def test_nothing_has_happened_yet() -> None:
    found = Counters().snapshot()
    assert found["last_inference"] == 0
    assert found["batch_stats"] == []
