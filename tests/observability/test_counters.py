"""Counts with the meanings of Triton's statistics extension and Prometheus' histograms."""

import random
import time
from bisect import bisect_left
from itertools import pairwise

from tidemill.observability.counters import OUTCOMES, STAGES, Counters
from tidemill.observability.families import SECONDS
from tidemill.observability.reading import total
from tidemill.observability.recorder import Recorder


def values(recorder: Recorder, family: str, **labels: str) -> list[float]:
    (found,) = [one.values for one in total(recorder).of(family) if labels.items() <= one.labels.items()]
    return found


def test_durations_are_of_the_parts_they_name() -> None:
    counters = Counters()
    now = time.monotonic()
    counters.answering(1, 64)
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


def test_many_at_once_count_as_one_by_one() -> None:
    """The parts that do not hang on the clock, over merged calls of every size up to 64."""
    draw = random.Random(7)
    recorder = Recorder()
    counters = Counters(recorder, "m", "1")
    expected = {stage: [0.0] * (len(SECONDS) + 2) for stage in STAGES}
    answered = 0
    for n in (*range(1, 65), 1, 2, 3):
        start = 1000.0
        finished = start + draw.choice(SECONDS) * draw.choice((0.5, 1.0, 1.7))
        for _ in range(n):
            read, decode, queue, encode = (10 ** draw.uniform(-7, 1.3) for _ in range(4))
            queued = start - queue
            moments = (queued - decode - read, queued - decode, queued, start, finished, finished + encode)
            counters.answering(1, 1)
            counters.succeeded(1, *moments)
            for (begin, end), stage in zip(pairwise(moments), STAGES, strict=False):
                expected[stage][bisect_left(SECONDS, end - begin)] += 1
                expected[stage][-1] += end - begin
        counters.executed(n, 0.0, finished - start, 0.0, n)
        answered += n
    counters.fold()
    for stage in STAGES[:-1]:
        found = values(recorder, "tidemill_request_stage_seconds", stage=stage)
        assert found[:-1] == expected[stage][:-1], stage
        assert abs(found[-1] - expected[stage][-1]) < 1e-6 * expected[stage][-1]
    for family, labels in (
        ("tidemill_request_stage_seconds", {"stage": "write"}),
        ("tidemill_request_duration_seconds", {"result": "ok"}),
    ):
        assert sum(values(recorder, family, **labels)[:-1]) == answered
    assert values(recorder, "tidemill_requests_total", outcome="ok") == [answered]
    assert values(recorder, "tidemill_rows_total") == [answered]


def test_each_failure_has_its_outcome_and_refusals_their_reason() -> None:
    recorder = Recorder()
    counters = Counters(recorder, "m", "1")
    for code in (*OUTCOMES[1:], "a_code_of_tomorrow"):
        counters.failed(time.monotonic(), code)
    counters.failed(time.monotonic(), "overloaded", "queue_full")
    found = {one.labels["outcome"]: one.values[0] for one in total(recorder).of("tidemill_requests_total")}
    expected = dict.fromkeys((*OUTCOMES, "a_code_of_tomorrow"), 1.0) | {"ok": 0.0, "overloaded": 2.0}
    assert found == expected
    assert values(recorder, "tidemill_refusals_total", reason="queue_full") == [1.0]
    # No answer was given to whoever left: there is no time of it.
    assert sum(values(recorder, "tidemill_request_duration_seconds", result="error")[:-1]) == len(OUTCOMES)


def test_a_model_that_is_loaded_again_goes_on_counting() -> None:
    recorder = Recorder()
    before, after = Counters(recorder, "m", "1"), Counters(recorder, "m", "1")
    before.failed(time.monotonic(), "late")
    after.failed(time.monotonic(), "late")
    before.executed(3, 0.1, 0.2, 0.3)
    after.executed(3, 0.1, 0.2, 0.3)
    before.fold()
    assert values(recorder, "tidemill_requests_total", outcome="late") == [2.0]
    assert after.snapshot()["execution_count"] == 2
    assert after.snapshot()["batch_stats"][0]["compute_infer"]["count"] == 2
