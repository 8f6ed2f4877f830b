"""Merging, admission, deadlines and cancellation in front of real models."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.packages import make
from tests.prediction.calls import CHEAP, DEAR, Seen, in_loop
from tests.realtime import packages
from tidemill.errors import Late, Overloaded, Unavailable
from tidemill.model.package import open_package
from tidemill.model.signature import Input, Output
from tidemill.observability.counters import Counters
from tidemill.prediction.batched import Batched, BatchLimits
from tidemill.prediction.budget import Budget
from tidemill.prediction.live import Live
from tidemill.prediction.profile import Profile


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    return packages.sleeper(tmp_path)


def test_calls_of_one_loop_turn_form_one_model_call(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        calls = [Seen(batched.live, seconds=[0.0] * n) for n in (1, 3, 2)]
        for call in calls:
            batched.submit(call)
        for call in calls:
            await call.wait()
        assert [c["together"] for c in calls] == [[6], [6, 6, 6], [6, 6]]
        assert {v for c in calls for v in c["call"]} == {1}
        assert batched.counters.execution_count == 1
        assert batched.idle
        assert batched.queued_rows == 0

    in_loop(sleeper, work)


@pytest.mark.parametrize("profile", [CHEAP, DEAR], ids=["inline", "thread"])
def test_a_short_call_runs_on_the_loop_and_a_long_one_does_not(tmp_path: Path, profile: Profile) -> None:
    async def work(batched: Batched) -> None:
        calls = [Seen(batched.live, x=[[i, i + 1]]) for i in range(3)]
        for call in calls:
            batched.submit(call)
        assert [(await c.wait())["twice"] for c in calls] == [[[2 * i, 2 * i + 2]] for i in range(3)]
        assert batched.counters.execution_count == 1
        assert (batched._workers._threads == []) == (profile is CHEAP)

    in_loop(packages.twice(tmp_path), work, profile)


def test_a_package_with_code_of_its_own_never_runs_on_the_loop(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        batched.submit(call := Seen(batched.live, seconds=[0.3]))
        await asyncio.sleep(0.05)
        assert not call.done, "the loop went on while the model slept"
        await call.wait()

    in_loop(sleeper, work, CHEAP)


def test_each_caller_gets_its_own_rows(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        calls = [Seen(batched.live, seconds=[i / 1e4, i / 2e4]) for i in range(20)]
        for call in calls:
            batched.submit(call)
        for i, call in enumerate(calls):
            assert (await call.wait())["seconds"] == [np.float32(i / 1e4), np.float32(i / 2e4)]

    in_loop(sleeper, work)


def test_what_arrives_while_a_thread_is_busy_gathers(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        first = Seen(batched.live, seconds=[0.1])
        batched.submit(first)
        await asyncio.sleep(0)
        assert batched.busy == 1
        later = [Seen(batched.live, seconds=[0.0]) for _ in range(5)]
        for call in later:
            batched.submit(call)
            await asyncio.sleep(0)
        await first.wait()
        assert [(await c.wait())["together"] for c in later] == [[5]] * 5

    in_loop(sleeper, work)


def test_a_call_is_bounded_in_rows_and_bytes(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        calls = [Seen(batched.live, seconds=[0.0] * 4) for _ in range(5)]
        for call in calls:
            batched.submit(call)
        assert [(await c.wait())["together"][0] for c in calls] == [8, 8, 8, 8, 4]

    in_loop(sleeper, work, limits=BatchLimits(max_rows=10))
    in_loop(sleeper, work, limits=BatchLimits(max_bytes=10 * 4))


def test_a_larger_request_than_a_call_goes_alone(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        calls = [Seen(batched.live, seconds=[0.0] * n) for n in (2, 30, 2)]
        for call in calls:
            batched.submit(call)
        assert [(await c.wait())["together"][0] for c in calls] == [2, 30, 2]

    in_loop(sleeper, work, limits=BatchLimits(max_rows=10))


def test_a_bad_member_fails_alone(tmp_path: Path) -> None:
    async def work(batched: Batched) -> None:
        good, raising, rejected, mixed = (Seen(batched.live, x=x) for x in ([4.0, 9.0], [-1.0], [-11.0], [16.0, -2.0]))
        for call in (good, raising, rejected, mixed):
            batched.submit(call)
        assert (await good.wait())["root"] == [2.0, 3.0]
        assert good.answer is not None
        assert not good.answer.problems
        told = []
        for call in (raising, rejected, mixed):
            await call.wait()
            assert call.answer is not None
            told.append([(p.row, p.code) for p in call.answer.problems])
        assert told == [[(0, "model_failed")], [(0, "below_minimum")], [(1, "model_failed")]]
        assert mixed["root"][0] == 4.0

    in_loop(packages.fragile(tmp_path), work)


VARIABLE = """
class Model:
    inputs = {"x": ("FP32", [-1, -1])}
    outputs = {"sum": ("FP32", [-1]), "together": ("INT64", [-1])}

    def predict(self, rows):
        import numpy as np
        x = rows["x"]
        return {"sum": x.sum(axis=1), "together": np.full(len(x), len(x))}
"""


def variable(directory: Path, *, independent: bool = True) -> Path:
    inputs = [Input(name="x", datatype="FP32", shape=(-1, -1))]
    outputs = [Output(name="sum", datatype="FP32"), Output(name="together", datatype="INT64")]
    return make(directory / "p", "python", VARIABLE, inputs, outputs, rows_independent=independent).directory


def test_variable_shapes_merge_only_where_they_agree(tmp_path: Path) -> None:
    async def work(batched: Batched) -> None:
        calls = [Seen(batched.live, x=np.ones((1, width))) for width in (3, 3, 5, 5, 5, 3)]
        for call in calls:
            batched.submit(call)
        assert [(await c.wait())["together"] for c in calls] == [[3]] * 6, "none waits behind one of another shape"
        assert [c["sum"] for c in calls] == [[3.0], [3.0], [5.0], [5.0], [5.0], [3.0]]

    in_loop(variable(tmp_path), work)


def test_rows_of_a_shape_that_varies_are_bounded_by_the_bytes_they_have(tmp_path: Path) -> None:
    async def work(batched: Batched) -> None:
        narrow = [Seen(batched.live, x=np.ones((1, 4))) for _ in range(5)]
        wide = [Seen(batched.live, x=np.ones((1, 10))) for _ in range(5)]
        for call in narrow + wide:
            batched.submit(call)
        assert [(await c.wait())["together"] for c in narrow] == [[5]] * 5
        assert [(await c.wait())["together"] for c in wide] == [[2], [2], [2], [2], [1]]

    in_loop(variable(tmp_path), work, limits=BatchLimits(max_bytes=5 * 4 * 4))


def test_dependent_rows_are_never_merged(tmp_path: Path) -> None:
    async def work(batched: Batched) -> None:
        calls = [Seen(batched.live, x=np.ones((n, 2))) for n in (1, 2, 3)]
        for call in calls:
            batched.submit(call)
        assert [(await c.wait())["together"][0] for c in calls] == [1, 2, 3]

    in_loop(variable(tmp_path, independent=False), work)


def test_the_queue_is_bounded_by_the_bytes_it_really_holds(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        batched.submit(running := Seen(batched.live, seconds=[0.2]))
        await asyncio.sleep(0)
        calls = [Seen(batched.live, seconds=[0.0] * 5) for _ in range(2)]
        gone = Seen(batched.live, seconds=[0.0] * 5)
        size = calls[0].rows.nbytes
        assert 2 * size <= batched.limits.max_queue_bytes < 3 * size
        batched.submit(gone)
        batched.submit(calls[0])
        with pytest.raises(Overloaded, match=f"{2 * size} bytes wait, the limit is {batched.limits.max_queue_bytes}"):
            batched.submit(calls[1])
        gone.cancel()
        batched.submit(calls[1])
        for call in (running, *calls):
            await call.wait()
        # An empty queue takes a call of any size: it could not be answered later either.
        batched.submit(large := Seen(batched.live, seconds=[0.0] * 50))
        await large.wait()

    in_loop(sleeper, work, limits=BatchLimits(max_queue_bytes=50))


def test_the_queue_is_bounded(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        running = Seen(batched.live, seconds=[0.2])
        batched.submit(running)
        await asyncio.sleep(0)
        waiting = [Seen(batched.live, seconds=[0.0] * 5) for _ in range(2)]
        for call in waiting:
            batched.submit(call)
        with pytest.raises(Overloaded, match="10 rows wait, the limit is 10") as refused:
            batched.submit(Seen(batched.live, seconds=[0.0]))
        assert refused.value.retry_after > 0
        for call in (running, *waiting):
            await call.wait()
        batched.submit(last := Seen(batched.live, seconds=[0.0]))
        assert (await last.wait())["together"] == [1]

    in_loop(sleeper, work, limits=BatchLimits(max_queue_rows=10))


def test_work_that_cannot_make_its_deadline_is_refused(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        running = Seen(batched.live, seconds=[0.05])
        batched.submit(running)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="its deadline is in"):
            batched.submit(Seen(batched.live, within=0.5, seconds=[0.0]))
        patient = Seen(batched.live, within=10.0, seconds=[0.0])
        batched.submit(patient)
        await running.wait()
        await patient.wait()
        assert patient["together"] == [1]

    # Each call is expected to take 0.4 s: what is running, and what would follow it, are 0.8 s away.
    in_loop(sleeper, work, Profile((1,), (0.4,)))


def test_a_passed_deadline_is_late_at_once(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        with pytest.raises(Late):
            batched.submit(Seen(batched.live, within=-0.001, seconds=[0.0]))
        assert batched.idle

    in_loop(sleeper, work)


def test_a_late_caller_is_told_at_its_deadline_and_the_thread_still_counts(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        late = Seen(batched.live, within=0.05, seconds=[0.5])
        batched.submit(late)
        await late.wait()
        assert isinstance(late.error, Late)
        assert batched.busy == 1, "the thread is in the model call, whoever waits for it"
        behind = Seen(batched.live, seconds=[0.0])
        batched.submit(behind)
        assert (await behind.wait())["call"] == [2]
        assert batched.busy == 0

    in_loop(sleeper, work)


def test_expired_work_never_starts(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        running = Seen(batched.live, seconds=[0.2])
        batched.submit(running)
        await asyncio.sleep(0)
        expired = Seen(batched.live, within=0.1, seconds=[0.0])
        batched.submit(expired)
        await expired.wait()
        assert isinstance(expired.error, Late)
        assert batched.queued_rows == 0
        await running.wait()
        await asyncio.sleep(0)
        assert batched.counters.execution_count == 1

    in_loop(sleeper, work)


def test_a_cancelled_call_never_starts_and_makes_room(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        running = Seen(batched.live, seconds=[0.2])
        batched.submit(running)
        await asyncio.sleep(0)
        waiting = [Seen(batched.live, seconds=[0.0] * 10) for _ in range(1)]
        batched.submit(waiting[0])
        with pytest.raises(Overloaded):
            batched.submit(Seen(batched.live, seconds=[0.0]))
        waiting[0].cancel()
        waiting[0].cancel()
        assert batched.queued_rows == 0
        batched.submit(other := Seen(batched.live, seconds=[0.0] * 10))
        assert (await other.wait())["together"] == [10] * 10
        assert waiting[0].answer is None
        assert waiting[0].error is None
        assert batched.counters.execution_count == 2

    in_loop(sleeper, work, limits=BatchLimits(max_queue_rows=10))


def test_callers_who_left_take_no_place_in_the_queue(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        running = Seen(batched.live, seconds=[0.3])
        batched.submit(running)
        await asyncio.sleep(0)
        for _ in range(1000):
            call = Seen(batched.live, seconds=[0.0])
            batched.submit(call)
            call.cancel()
        assert sum(len(calls) for lane in batched._queue.lanes for calls in lane.kinds.values()) < 100
        batched.submit(last := Seen(batched.live, seconds=[0.0]))
        assert (await last.wait())["together"] == [1]
        assert batched.idle

    in_loop(sleeper, work)


def test_no_rows_are_answered_with_no_rows(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        empty, mate = Seen(batched.live, seconds=[]), Seen(batched.live, seconds=[0.0])
        batched.submit(empty)
        batched.submit(mate)
        assert (await empty.wait())["seconds"] == []
        assert (await mate.wait())["together"] == [1]

    in_loop(sleeper, work)


def test_an_answer_that_cannot_be_given_fails_alone(sleeper: Path) -> None:
    class Broken(Seen):
        def answered(self, result: object, start: int, stop: int) -> None:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    async def work(batched: Batched) -> None:
        broken, mate = Broken(batched.live, seconds=[0.0]), Seen(batched.live, seconds=[0.0])
        batched.submit(broken)
        batched.submit(mate)
        assert (await mate.wait())["together"] == [2]
        assert str((await broken.wait()).error) == "internal error: UnicodeEncodeError"

    in_loop(sleeper, work)


def test_after_the_end_nothing_is_taken_and_nobody_waits(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        running, waiting = Seen(batched.live, seconds=[0.3]), Seen(batched.live, seconds=[0.0])
        batched.submit(running)
        await asyncio.sleep(0)
        batched.submit(waiting)
        batched.close()
        with pytest.raises(Unavailable, match="the server stopped"):
            batched.submit(Seen(batched.live, seconds=[0.0]))
        assert isinstance(running.error, Unavailable)
        assert isinstance(waiting.error, Unavailable)

    in_loop(sleeper, work)


def test_a_model_that_does_not_come_back_is_overdue(sleeper: Path) -> None:
    async def work(batched: Batched) -> None:
        assert not batched.overdue(0.05)
        running = Seen(batched.live, seconds=[0.3])
        batched.submit(running)
        await asyncio.sleep(0.2)
        assert batched.overdue(0.05)
        await running.wait()
        assert not batched.overdue(0.05)

    in_loop(sleeper, work)


def test_more_workers_run_at_the_same_time(tmp_path: Path) -> None:
    async def work(batched: Batched) -> None:
        first, second = Seen(batched.live, x=[4.0]), Seen(batched.live, x=[9.0])
        batched.submit(first)
        await asyncio.sleep(0)
        batched.submit(second)
        await first.wait()
        await second.wait()
        assert batched.counters.execution_count == 2

    in_loop(packages.fragile(tmp_path), work, limits=BatchLimits(workers=2, max_rows=1))


async def pair(packages_: tuple[Path, Path], budget: Budget) -> tuple[Batched, Batched]:
    loop = asyncio.get_running_loop()
    lives = [Live.open(open_package(p)) for p in packages_]
    first, second = [Batched(live, DEAR, BatchLimits(), loop, Counters(), budget) for live in lives]
    return first, second


def test_endpoints_that_compute_share_the_cores_and_those_that_wait_need_none(tmp_path: Path) -> None:
    async def run() -> None:
        made = packages.sleeper(tmp_path), packages.sleeper(tmp_path, name="other")
        first, second = await pair(made, Budget(1))

        async def both() -> tuple[Seen, Seen]:
            calls = Seen(first.live, seconds=[0.1]), Seen(second.live, seconds=[0.1])
            for batched, call in zip((first, second), calls, strict=True):
                batched.submit(call)
            for call in calls:
                await call.wait()
            return calls

        a, b = await both()
        assert a.finished <= b.started, "until it is known that they only wait, one at a time"
        for _ in range(10):
            a, b = await both()
        assert b.started < a.finished
        first.close()
        second.close()

    asyncio.run(run())


def test_a_model_that_hangs_does_not_hold_up_another(tmp_path: Path) -> None:
    async def run() -> None:
        made = packages.sleeper(tmp_path), packages.sleeper(tmp_path, name="other")
        hanging, other = await pair(made, Budget(1))
        hanging.submit(stuck := Seen(hanging.live, seconds=[3.0]))
        await asyncio.sleep(0)
        other.submit(call := Seen(other.live, seconds=[0.0]))
        await call.wait()
        assert stuck.answer is None
        await stuck.wait()
        assert other.idle
        assert hanging.idle
        hanging.close()
        other.close()

    asyncio.run(run())
