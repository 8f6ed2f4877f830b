"""Whether replicas live: each is asked, over its own socket, by a request that its server answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tidemill.realtime.replicas.child import Child, Phase

if TYPE_CHECKING:
    from tidemill.realtime.replicas.fleet import Fleet

__all__ = ["watch"]

# Seconds between requests.
LOOK = 1.0


async def watch(fleet: Fleet) -> None:
    """Replace every replica that does not answer. Runs until cancelled."""
    while True:
        await asyncio.sleep(LOOK)
        await asyncio.gather(*(_look(fleet, child) for child in fleet.of(Phase.READY)))


async def _look(fleet: Fleet, child: Child) -> None:
    """Two requests in a row that are not answered: one may be lost where this process itself stood still."""
    if await child.lives(fleet.policy.liveness_timeout / 2):
        child.silent = 0
        return
    child.silent += 1
    if child.silent > 1 and child.phase is Phase.READY:
        # It holds its connections and serves none of them: their clients are told by its end.
        fleet.condemn(child, "it does not answer")
        child.kill()
