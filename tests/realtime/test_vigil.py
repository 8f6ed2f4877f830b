"""The loop stays awake for a moment after activity, and gives that up where nobody comes."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from tidemill.realtime import vigil as module
from tidemill.realtime.vigil import FRUITLESS, TRIED, VIGIL, Vigil


async def _settled(vigil: Vigil) -> None:
    while vigil.kept:  # noqa: ASYNC110 - the hot path sets no event
        await asyncio.sleep(VIGIL)


def _run(scenario: Callable[[Vigil], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario(Vigil())

    uvloop.run(main())


def test_ends_when_nobody_comes_and_begins_again_with_the_next() -> None:
    async def scenario(vigil: Vigil) -> None:
        for _ in range(2):
            vigil.stir()
            assert vigil.stirred
            await asyncio.wait_for(_settled(vigil), 10)
            assert not vigil.stirred

    _run(scenario)


def test_lasts_while_somebody_comes() -> None:
    async def scenario(vigil: Vigil) -> None:
        vigil.stir()
        for _ in range(500):
            await asyncio.sleep(0)
            if not vigil.stirred:
                vigil.stir()
            assert vigil.kept
        await asyncio.wait_for(_settled(vigil), 10)

    _run(scenario)


def test_is_kept_seldom_where_it_is_in_vain_and_always_again_where_it_is_not() -> None:
    async def scenario(vigil: Vigil) -> None:
        begun = 0
        for _ in range(FRUITLESS + 4 * TRIED):
            vigil.stir()
            begun += vigil.kept
            await asyncio.wait_for(_settled(vigil), 10)
        assert begun == FRUITLESS + 4
        while not vigil.kept:
            vigil.stir()
        await asyncio.sleep(0)
        vigil.stir()  # somebody came during a vigil
        await asyncio.wait_for(_settled(vigil), 10)
        for _ in range(FRUITLESS - 1):
            vigil.stir()
            assert vigil.kept
            await asyncio.wait_for(_settled(vigil), 10)

    _run(scenario)


def test_the_core_is_given_up_in_every_turn_in_which_nobody_came(monkeypatch: pytest.MonkeyPatch) -> None:
    yields = 0

    def counted() -> None:
        nonlocal yields
        yields += 1

    async def scenario(vigil: Vigil) -> None:
        vigil.stir()
        await asyncio.wait_for(_settled(vigil), 10)

    monkeypatch.setattr(module.os, "sched_yield", counted)
    _run(scenario)
    assert yields
