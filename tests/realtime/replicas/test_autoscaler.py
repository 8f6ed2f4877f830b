"""The autoscaler over traces: how many replicas there are, when, and why; and what holds for whatever is seen."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.realtime.replicas.traces import Replay, Service, replay
from tidemill.realtime.replicas.autoscaler import MOST_PARTS, AutoscalingOptions, Observation, State, decide

# A replica of `Service()` does 200 requests a second, and is meant to do 70 % of them: 140.
ENOUGH_FOR_700 = 5
ENOUGH_FOR_1000 = 8
DAY = 1800.0


def diurnal(at: float) -> float:
    return 600 - 500 * math.cos(2 * math.pi * at / DAY)


def test_a_step_is_met_within_seconds_and_stays_met():
    run = replay(lambda at: 100 if at < 30 else 700, 300, Service())
    assert set(run.wanted(until=30)) == {1}
    assert run.wanted(since=34)[0] >= ENOUGH_FOR_700
    assert set(run.wanted(since=40)) <= {ENOUGH_FOR_700, ENOUGH_FOR_700 + 1}
    assert run.turns() == 0
    assert run.refused(since=40) == 0


def test_a_spike_of_ten_times_is_met_within_seconds_and_given_up_after_the_delay():
    run = replay(lambda at: 1000 if 60 <= at < 90 else 100, 400, Service())
    assert set(run.wanted(until=60)) == {1}
    assert run.wanted(since=64)[0] == ENOUGH_FOR_1000
    assert max(run.wanted()) == ENOUGH_FOR_1000, "a backlog is not mistaken for load"
    assert run.refused(since=70) == 0
    assert set(run.wanted(since=64, until=120)) == {ENOUGH_FOR_1000}, "none is given up in a hurry"
    assert run.wanted()[-1] == 1
    assert run.turns() == 1
    halved = [(a, b) for a, b in pairwise(run.changes()) if b < a]
    assert all(b >= a // 2 for a, b in halved)


@pytest.mark.parametrize("startup", [2.0, 40.0])
def test_day_and_night_are_followed_without_a_refusal(startup):
    run = replay(diurnal, 2 * DAY, Service(startup=startup))
    assert run.refused() == 0
    assert max(run.wanted()) <= 10
    assert min(run.wanted(since=DAY - 60, until=DAY + 60)) == 1
    assert run.turns() == 3, "up, down, up, down"
    for second in run.seconds:
        assert second.ready >= diurnal(second.at) / 200, "never short of what the load takes"


def test_a_slow_starter_is_ordered_earlier():
    quick, slow = (replay(diurnal, DAY / 2, Service(startup=startup)) for startup in (1.0, 60.0))
    assert "ramp" in slow.causes()
    for count in range(3, 8):
        assert first(slow, count) < first(quick, count)


def first(run: Replay, count: int) -> float:
    return next(one.at for one in run.seconds if one.wanted >= count)


@pytest.mark.parametrize("patience", [0.3, 1000.0])
def test_what_still_starts_is_not_ordered_again(patience):
    """Twenty seconds of ten times the load, refused or piled up, until the first new replica is there."""
    run = replay(lambda at: 100 if at < 30 else 1000, 300, Service(startup=20.0, patience=patience))
    assert run.wanted(since=34)[0] == ENOUGH_FOR_1000
    assert max(run.wanted()) <= ENOUGH_FOR_1000 + 1
    assert run.turns() == 0


@pytest.mark.parametrize(("period", "turns"), [(5, 1), (10, 1), (30, 3), (60, 5)])
def test_thrash_is_ridden_out(period, turns):
    """Load that swings by seven times: replicas that were given up too soon are kept longer the next time."""
    run = replay(lambda at: 100 if at // period % 2 else 700, 1200, Service())
    assert run.turns() <= turns
    assert run.refused(since=600) == 0


def test_one_request_a_second_is_one_replica():
    run = replay(lambda at: 1.0, 900, Service())
    assert run.changes() == [1]
    assert run.causes() == {"steady"}


@pytest.mark.parametrize("rate", [135.0, 140.0, 145.0, 280.0, 420.0])
def test_a_load_on_the_edge_between_two_counts_does_not_swing(rate):
    run = replay(lambda at: rate, 1200, Service())
    assert run.turns() <= 1


def test_a_model_that_waits_scales_out_and_one_that_computes_stops_at_the_cores():
    waits = replay(lambda at: 100 if at < 30 else 1600, 200, Service(cpu=0.02, cores=2.0))
    assert waits.wanted()[-1] in (12, 13)
    computes = replay(lambda at: 10 if at < 30 else 100, 200, Service(slots=1, cpu=1.0, cores=2.0))
    assert computes.changes() == [1, 2]
    assert "cores" in computes.causes()


def test_memory_bounds_the_count():
    run = replay(lambda at: 100 if at < 30 else 1000, 200, Service(memory=1 << 30, free=4 << 30))
    assert max(run.wanted()) == 4, "three more fit: the reserve is left free"
    assert "memory" in run.causes()


def test_a_lost_replica_does_not_change_how_many_there_should_be():
    run = replay(lambda at: 700, 200, Service(), kill=lambda at: 1 if at == 100 else 0)
    assert len(set(run.wanted(since=20))) == 1
    assert run.seconds[100].ready < run.seconds[99].ready == run.seconds[110].ready


def test_waiting_asks_for_replicas_that_concurrency_does_not():
    """A target far above what a replica holds within its SLO: only the headroom tells."""
    options = AutoscalingOptions(target_concurrency=1000.0)
    run = replay(lambda at: 60 if at < 30 else 390, 200, Service(patience=1.0), options)
    assert set(run.wanted(until=30)) == {1}
    assert "slo" in run.causes()
    assert run.wanted()[-1] == 3
    assert max(one.waiting for one in run.seconds[-60:]) < 0.04


def test_replicas_that_cannot_help_are_not_added():
    """A call takes twice the SLO by itself."""
    options = AutoscalingOptions(target_concurrency=1000.0)
    run = replay(lambda at: 10.0, 200, Service(slots=1, service=0.2, slo=0.1, patience=1.0), options)
    assert run.changes() == [1]


def test_never_below_the_least_nor_above_the_most():
    idle = replay(lambda at: 0.0, 200, Service(), least=3, most=5)
    assert idle.changes() == [3]
    flooded = replay(lambda at: 5000.0, 60, Service(), least=3, most=5)
    assert flooded.changes() == [5]
    assert "at most 5 are allowed" in flooded.seconds[-1].decision.reason


def test_nothing_that_answers_is_still_the_least():
    _, decision = decide(AutoscalingOptions(), State(), Observation(0.0, 0, 0, 0.0), least=1, most=4)
    assert decision.replicas == 1


def test_the_reason_names_the_figures():
    seen = Observation(now=1.0, ready=1, starting=0, concurrency=28.0, target=4.0, memory=1 << 30, free=2 << 30)
    _, decision = decide(AutoscalingOptions(), State(), seen, least=1, most=16)
    assert decision.cause == "memory"
    assert "28 requests at a time" in decision.reason
    assert "2.8 a replica: 10; but 1792 MiB are left and a replica takes 1024" in decision.reason


def test_windows_that_contradict_each_other_are_named():
    assert AutoscalingOptions().problems() == []
    (problem,) = AutoscalingOptions(panic_window=90.0).problems()
    assert problem == "panic_window: must be at most stable_window (60), got 90"


counts = st.integers(0, 50)
amounts = st.floats(0, 1e9, allow_nan=False)
maybe = st.none() | amounts
sizes = st.none() | st.integers(0, 1 << 45)
sights = st.builds(
    Observation,
    now=st.floats(0, 1e7),
    ready=counts,
    starting=counts,
    concurrency=amounts,
    target=amounts,
    arrivals=maybe,
    completed=maybe,
    service=maybe,
    waiting=maybe,
    slo=maybe,
    startup=maybe,
    cpu=maybe,
    cores=maybe,
    memory=sizes,
    free=sizes,
)
options = st.builds(
    AutoscalingOptions,
    target_concurrency=st.none() | st.floats(1e-6, 1e6),
    stable_window=st.floats(1, 1e4),
    panic_window=st.floats(1e-3, 1),
    down_delay=st.floats(0, 100),
)


@settings(max_examples=150, deadline=None)
@given(options, st.lists(sights, min_size=1, max_size=30), st.integers(-2, 20), st.integers(-2, 20))
def test_whatever_is_seen_the_bounds_hold(chosen, seen, least, most):
    state, now = State(), 0.0
    for one in seen:
        now += one.now % 7 if one.now < 5e6 else 0.0
        state, decision = decide(chosen, state, replace(one, now=now), least=least, most=most)
        assert max(1, least) <= decision.replicas <= max(1, least, most)
        assert "nan" not in decision.reason
        assert "inf" not in decision.reason
        assert len(state.parts) <= MOST_PARTS + 2


@settings(max_examples=150, deadline=None)
@given(st.lists(sights, max_size=8), sights, amounts, st.booleans())
def test_more_load_never_means_fewer_replicas(before, now, more, forever):
    """At the same state, with nothing known but the concurrency and what there is."""
    state = State()
    for i, one in enumerate(before):
        state, _ = decide(AutoscalingOptions(), state, replace(one, now=float(i)), least=1, most=1000)
    seen = replace(now, now=1e6 if forever else len(before), arrivals=None, waiting=None)
    _, quiet = decide(AutoscalingOptions(), state, seen, least=1, most=1000)
    _, busy = decide(
        AutoscalingOptions(), state, replace(seen, concurrency=seen.concurrency + more), least=1, most=1000
    )
    assert busy.replicas >= quiet.replicas


@settings(max_examples=50, deadline=None)
@given(sights, st.integers(2, 5))
def test_looking_again_at_once_changes_nothing(seen, times):
    """Nothing is ordered twice because somebody looked twice."""
    state, decision = decide(AutoscalingOptions(), State(), seen, least=1, most=100)
    for _ in range(times):
        ready = min(seen.ready, decision.replicas)
        ordered = replace(seen, ready=ready, starting=decision.replicas - ready)
        state, again = decide(AutoscalingOptions(), state, ordered, least=1, most=100)
        assert again.replicas <= decision.replicas
