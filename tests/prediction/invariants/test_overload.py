"""Overload is refused at once."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.prediction.calls import Seen, in_loop
from tests.realtime import packages
from tidemill.errors import Overloaded
from tidemill.prediction.batched import Batched, BatchLimits


def test_a_thousand_more_are_refused_while_the_model_is_busy(tmp_path: Path) -> None:
    async def work(batched: Batched) -> None:
        running = Seen(batched.live, seconds=[0.5])
        batched.submit(running)
        await asyncio.sleep(0)
        batched.submit(waiting := Seen(batched.live, seconds=[0.0] * 8))
        spent = []
        for _ in range(1000):
            call = Seen(batched.live, seconds=[0.0])
            before = time.perf_counter()
            with pytest.raises(Overloaded) as refused:
                batched.submit(call)
            spent.append(time.perf_counter() - before)
            assert refused.value.retry_after >= 0
        assert running.answer is None, "all were refused while the model was still busy"
        assert sorted(spent)[500] < 0.002
        assert batched.queued_rows == 8
        await waiting.wait()
        assert batched.counters.execution_count == 2

    in_loop(packages.sleeper(tmp_path), work, limits=BatchLimits(max_queue_rows=8))
