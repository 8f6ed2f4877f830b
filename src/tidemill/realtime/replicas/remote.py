"""The models of a replica: what is asked of it is asked of its supervisor, so that all replicas serve the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count

from tidemill.errors import Unavailable
from tidemill.realtime.models.control import Aliases, Change, Load, State, Traffic, Unload
from tidemill.realtime.models.models import Models
from tidemill.realtime.replicas.messages import Answer, Ask, raised

__all__ = ["RemoteControl"]


class RemoteControl:
    """`Control` of a process that has a supervisor."""

    def __init__(self, models: Models, ask: Callable[[Ask], None]) -> None:
        self._models = models
        self._ask = ask
        self._turns = count()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._known: Sequence[State] = ()

    async def change(self, change: Change) -> None:
        """As Control says; Unavailable if the supervisor is gone."""
        assert isinstance(change, Load | Unload | Aliases | Traffic)  # noqa: S101 - the four changes there are
        turn = next(self._turns)
        self._waiting[turn] = asyncio.get_running_loop().create_future()
        try:
            self._ask(Ask(turn=turn, change=change))
            await self._waiting[turn]
        finally:
            del self._waiting[turn]

    def answered(self, answer: Answer) -> None:
        """The supervisor has seen to a change, or will not."""
        waiting = self._waiting.get(answer.turn)
        if waiting is None or waiting.done():
            return
        if answer.error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(raised(answer.error))

    def alone(self) -> None:
        """The supervisor is gone."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Unavailable("the server is ending; nothing was changed"))

    def know(self, states: Sequence[State]) -> None:
        """What the supervisor knows of versions that are not served."""
        self._known = states

    def index(self) -> list[State]:
        """As Control says."""
        served = self._models.states()
        known = {(one.name, one.version) for one in served}
        return served + [one for one in self._known if (one.name, one.version) not in known]
