"""A cancelled or late caller never delays or breaks the others."""

import asyncio
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prediction.calls import CHEAP, DEAR, Seen, in_loop
from tests.realtime import packages
from tidemill.errors import Late, Overloaded
from tidemill.prediction.batched import Batched

# What becomes of a caller: it stays, leaves while it waits, leaves while its call runs, or has no time.
FATES = st.lists(st.sampled_from(["stays", "leaves", "leaves running", "late"]), min_size=1, max_size=12)


@settings(max_examples=25)
@given(FATES, st.sampled_from([CHEAP, DEAR]))
def test_those_who_stay_get_what_they_would_get_alone(tmp_path_factory, fates: list[str], profile) -> None:
    async def work(batched: Batched) -> None:
        calls = []
        for i, fate in enumerate(fates):
            within = 0.001 if fate == "late" else 60.0
            calls.append(Seen(batched.live, within=within, seconds=[i / 1e5, 0.005]))
            try:
                batched.submit(calls[-1])
            except (Overloaded, Late) as error:  # it has no time, which may be plain at once
                assert fate == "late"
                calls[-1].failed(error)
        for call, fate in zip(calls, fates, strict=True):
            if fate == "leaves":
                call.cancel()
        await asyncio.sleep(0.002)
        for call, fate in zip(calls, fates, strict=True):
            if fate == "leaves running":
                call.cancel()
        staying = [i for i, fate in enumerate(fates) if fate == "stays"]
        for i in staying:
            assert (await calls[i].wait())["seconds"] == [np.float32(i / 1e5), np.float32(0.005)]
        for call, fate in zip(calls, fates, strict=True):
            if fate == "late":
                assert isinstance((await call.wait()).error, (Late, Overloaded))
            if fate == "leaves":
                assert call.answer is None
                assert call.error is None

    in_loop(_package(tmp_path_factory), work, profile)


def _package(factory) -> Path:
    target = factory.getbasetemp() / "cancelled_or_late"
    if not target.exists():
        target.mkdir()
        packages.sleeper(target)
    return target / "sleeper"
