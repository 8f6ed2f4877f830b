"""Every call that is submitted has exactly one outcome: answered, failed with one code, refused, or cancelled."""

import asyncio
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prediction.calls import CHEAP, DEAR, Seen, in_loop
from tests.realtime import packages
from tidemill.errors import TidemillError
from tidemill.prediction.batched import Batched, BatchLimits

# What one caller does: rows, whether the model raises at one of them, priority, seconds it has, when it leaves.
CALLER = st.tuples(
    st.integers(0, 5),
    st.sampled_from(["good", "raises", "rejected"]),
    st.integers(0, 4),
    st.sampled_from([-1.0, 0.0005, 0.003, 60.0]),
    st.sampled_from([None, None, None, 0, 1, 3]),
)
# Turns of the loop between one caller and the next.
SCHEDULE = st.lists(st.tuples(CALLER, st.integers(0, 2)), min_size=1, max_size=30)
LIMITS = [
    BatchLimits(max_rows=4, max_queue_rows=6),
    BatchLimits(max_rows=8, max_queue_rows=100, workers=2),
    BatchLimits(max_queue_rows=12, max_delay=0.002, preferred_rows=(4,)),
    BatchLimits(max_queue_rows=12, max_wait=0.001),
]
VALUES = {"good": 4.0, "raises": -1.0, "rejected": -11.0}


@settings(max_examples=60, deadline=None)
@given(SCHEDULE, st.sampled_from([CHEAP, DEAR]), st.sampled_from(LIMITS), st.booleans())
def test_each_call_has_one_outcome(tmp_path_factory, schedule, profile, limits: BatchLimits, ends: bool) -> None:
    async def work(batched: Batched) -> None:
        calls: list[Seen] = []
        outcomes: Counter[str] = Counter()
        leaving: dict[int, list[Seen]] = {}

        async def turn(at: int) -> None:
            await asyncio.sleep(0.0005)
            for call in leaving.pop(at, []):
                if not call.done:
                    call.cancel()
                    outcomes["cancelled"] += 1

        at = 0
        for (rows, fate, priority, within, leaves), turns in schedule:
            call = Seen(batched.live, within=within, x=[4.0] * (rows - 1) + [VALUES[fate]] * (rows > 0))
            call.priority = priority
            calls.append(call)
            try:
                batched.submit(call)
            except TidemillError as error:
                call.done = True
                call.failed(error)
            if leaves is not None:
                leaving.setdefault(at + leaves, []).append(call)
            for _ in range(turns):
                await turn(at)
                at += 1
        if ends:
            batched.close()
        while leaving:
            await turn(at)
            at += 1
        told = [call for call in calls if not (call.done and call.answer is None and call.error is None)]
        for call in told:
            await call.wait()
            outcomes["answered" if call.error is None else call.error.code] += 1
        assert outcomes.total() == len(schedule), outcomes
        assert outcomes["cancelled"] == len(calls) - len(told)
        assert outcomes.keys() <= {"answered", "cancelled", "overloaded", "unavailable", "late"}
        assert batched.queued == batched.queued_rows == 0
        for _ in range(10_000):
            if batched.idle:
                break
            await asyncio.sleep(0.001)
        assert batched.idle
        assert batched._queue.nbytes == 0
        assert all(call.waits_in is None for call in calls)

    in_loop(_package(tmp_path_factory), work, profile, limits)


def _package(factory) -> Path:
    target = factory.getbasetemp() / "every_outcome"
    if not target.exists():
        target.mkdir()
        packages.fragile(target)
    return target / "fragile"
