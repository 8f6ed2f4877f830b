"""Whether a model can still answer: asked for its own samples after it raised, until it answers them again.

Only the samples decide: what a client sends can make a model raise, but not a server unready.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from tidemill.errors import Refused, TidemillError
from tidemill.prediction.batched import Batched, Call
from tidemill.prediction.live import Live
from tidemill.prediction.profile import example_rows
from tidemill.prediction.result import Result
from tidemill.rows import Rows

__all__ = ["Probe", "tried"]

log = logging.getLogger(__name__)

# Seconds that an answer may take beyond twice the usual, and between two questions.
PATIENCE = 0.5
PAUSE = 0.5


def tried(live: Live) -> tuple[Rows | None, str | None]:
    """A row that shows whether the model can answer, and what is wrong if it does not now.

    It answered its samples when it was packaged. A row made up, or one that the signature has come to refuse, shows
    nothing where it fails: then there is none.
    """
    rows = example_rows(live, 1)
    problems = live.predict(rows).problems
    if not problems:
        return rows, None
    shows = live.package.manifest.samples is not None and problems[0].code == "model_failed"
    return rows if shows else None, problems[0].message


class Probe:
    """Watches one model. `failing` while it does not answer rows that it has answered before (`tried`)."""

    def __init__(self, batched: Batched, rows: Rows | None, loop: asyncio.AbstractEventLoop) -> None:
        """Without rows the model cannot be judged, and counts as able."""
        self.failing = False
        self._batched = batched
        self._loop = loop
        self._asking = False
        self._timer: asyncio.Handle | None = None
        self._rows = rows
        self._patience = PATIENCE + 2 * batched.profile.cost(1)
        if rows is not None:
            batched.on_model_failure = self._suspect

    def _suspect(self) -> None:
        if not self._asking:
            self._asking = True
            self._timer = self._loop.call_soon(self._ask)

    def _ask(self) -> None:
        if self._rows is None:
            return
        question = _Question(self, self._rows, monotonic() + self._patience)
        try:
            self._batched.submit(question)
        except TidemillError as error:
            question.failed(error)

    def settle(self, failure: str | None) -> None:
        """The samples were answered (None), or were not."""
        if (failure is not None) != self.failing:
            self.failing = failure is not None
            name = self._batched.live.package.name
            if failure is None:
                log.info("the model answers again", extra={"model": name})
            else:
                log.error("the model does not answer its own samples", extra={"model": name, "reason": failure})
        self._asking = failure is not None
        if self._asking:
            self.again()

    def again(self) -> None:
        """Ask once more, later."""
        self._timer = self._loop.call_later(PAUSE, self._ask)

    def close(self) -> None:
        """Ask no more."""
        self._batched.on_model_failure = None
        if self._timer is not None:
            self._timer.cancel()


class _Question(Call):
    __slots__ = ("probe",)

    def __init__(self, probe: Probe, rows: Rows, deadline: float) -> None:
        Call.__init__(self, rows, deadline)
        self.probe = probe

    def answered(self, result: Result, start: int, stop: int) -> None:
        mine = [p.message for p in result.problems if start <= p.row < stop]
        self.probe.settle(mine[0] if mine else None)

    def failed(self, error: TidemillError) -> None:
        if isinstance(error, Refused):
            self.probe.again()  # busy with others, which says nothing of the model
        else:
            self.probe.settle(str(error))
