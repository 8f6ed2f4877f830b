"""Changes of what is served: what a keeper desires is applied, to this process's memory or to all replicas."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from tidemill.realtime.models.control import Change, Load, State
from tidemill.realtime.models.desired import Desired
from tidemill.realtime.models.keeper import Keeper
from tidemill.realtime.models.loading import on_thread
from tidemill.realtime.models.model import Failures

__all__ = ["LocalControl"]

log = logging.getLogger(__name__)


class Applier(Protocol):
    """What serves a desired state: `Models` in this process, or all replicas of a supervisor."""

    async def apply(self, desired: Desired) -> Failures:
        """Serve this set. Returns what is not served as desired."""

    def states(self) -> list[State]:
        """Every version that is served."""


class LocalControl:
    """`Control` of whoever makes the desired state: a process without a supervisor, or the supervisor."""

    def __init__(self, keeper: Keeper, models: Applier) -> None:
        self._keeper = keeper
        self._models = models
        self._turn = asyncio.Lock()
        self._poll: asyncio.Task[None] | None = None
        self._tried: Desired | None = None

    async def start(self) -> None:
        """Load what is to be served. A version of the repository that cannot be served gives way to one that can.

        Raises PackageError, ConfigError or MissingExtra for anything else that cannot be.
        """
        async with self._turn:
            await on_thread(self._keeper.begin)
            for error in (await self._settle()).values():
                raise error
            self._keeper.begun()

    def poll(self, interval: float) -> None:
        """From now on look at the repository every so many seconds."""
        self._poll = asyncio.create_task(self._polling(interval))

    async def _polling(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                async with self._turn:
                    await on_thread(lambda: self._keeper.look(twice=True))
                    # What could not be had is not to be had at the next look either, unless something has changed.
                    if self._keeper.desired() != self._tried:
                        await self._settle()
            except Exception:
                log.exception("the repository could not be looked at")

    async def _settle(self) -> Failures:
        """Apply what is desired, with what can be served in place of what cannot. Returns what still fails."""
        while True:
            failures, again = await self._apply()
            if not again:
                return failures

    async def _apply(self) -> tuple[Failures, bool]:
        """What failed, and whether another state is to be tried for it."""
        self._tried = desired = self._keeper.desired()
        failures = await self._models.apply(desired)
        return failures, self._keeper.applied(desired, failures)

    async def change(self, change: Change) -> None:
        """As Control says."""
        async with self._turn:
            before = self._keeper.asked
            if isinstance(change, Load):
                await on_thread(self._keeper.look)
            self._keeper.change(change)
            failures, _ = await self._apply()
            mine = [error for (name, _), error in failures.items() if name == change.name]
            if mine:
                self._keeper.asked = before
            if failures:
                await self._settle()
            for error in mine:
                raise error

    def index(self) -> list[State]:
        """As Control says."""
        served = self._models.states()
        known = {(one.name, one.version) for one in served}
        return served + [one for one in self._keeper.states() if (one.name, one.version) not in known]

    def close(self) -> None:
        """Look no more."""
        if self._poll is not None:
            self._poll.cancel()
