"""Calls that remember what became of them, and a loop to make them in."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from tidemill.errors import TidemillError
from tidemill.model.package import open_package
from tidemill.observability.counters import Counters
from tidemill.prediction.batched import Batched, BatchLimits, Call
from tidemill.prediction.live import Live
from tidemill.prediction.profile import Profile
from tidemill.prediction.result import Result

PATIENCE = 30.0
# Costs that make every call run on the loop, and none.
CHEAP = Profile((1, 1024), (1e-6, 1e-5))
DEAR = Profile((1, 1024), (0.01, 0.01))


class Seen(Call):
    """A call that remembers its answer."""

    __slots__ = ("answer", "done_once", "error", "settled")

    def __init__(self, live: Live, within: float = math.inf, **columns: Any) -> None:
        arrays = {k: np.asarray(v, live.intake.by_name[k].type.dtype) for k, v in columns.items()}
        Call.__init__(self, live.intake.from_arrays(arrays), time.monotonic() + within)
        self.answer: Result | None = None
        self.error: TidemillError | None = None
        self.done_once = False
        self.settled = asyncio.Event()

    def answered(self, result: Result, start: int, stop: int) -> None:
        assert not self.done_once, "told twice"
        self.done_once = True
        self.answer = result.slice(start, stop)
        self.settled.set()

    def failed(self, error: TidemillError) -> None:
        assert not self.done_once, "told twice"
        self.done_once = True
        self.error = error
        self.settled.set()

    async def wait(self) -> "Seen":
        await asyncio.wait_for(self.settled.wait(), PATIENCE)
        return self

    def __getitem__(self, output: str) -> list[Any]:
        assert self.answer is not None, self.error
        return self.answer.outputs[output].tolist()


def in_loop(
    package: Path,
    work: Callable[[Batched], Awaitable[None]],
    profile: Profile = DEAR,
    limits: BatchLimits = BatchLimits(),  # noqa: B008 - frozen
) -> None:
    """Run `work` with a Batched of the package in a fresh event loop."""

    async def run() -> None:
        live = Live.open(open_package(package))
        batched = Batched(live, profile, limits, asyncio.get_running_loop(), Counters())
        try:
            await work(batched)
        finally:
            batched.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
