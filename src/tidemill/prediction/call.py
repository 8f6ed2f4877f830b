"""One caller's rows on their way through the queue, and the way back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tidemill.errors import TidemillError
from tidemill.prediction.result import Result
from tidemill.rows import Rows

if TYPE_CHECKING:
    from tidemill.prediction.queue import Queue

__all__ = ["Call"]


class Call(ABC):
    """One caller's rows on their way. Subclasses say what becomes of the answer.

    Exactly one of `answered` and `failed` is called, once, on the event loop, unless the call is cancelled: then
    neither is. `deadline` is a `time.monotonic()` moment, and so are `queued`, `started` and `finished`, which tell
    how long the call waited and its (merged) model call took. `priority` is 1 for the highest, 0 for the default. Only
    calls of an equal `kind` are merged: None for all calls of a model, or for none of them.
    """

    __slots__ = ("deadline", "done", "finished", "kind", "priority", "queued", "rows", "size", "started", "waits_in")

    def __init__(self, rows: Rows, deadline: float, priority: int = 0) -> None:
        self.rows = rows
        self.deadline = deadline
        self.priority = priority
        self.done = False
        self.waits_in: Queue | None = None
        self.size = 0  # bytes of its rows, counted only where it may have to wait
        self.queued = self.started = self.finished = 0.0
        self.kind: object = None

    @abstractmethod
    def answered(self, result: Result, start: int, stop: int) -> None:
        """Rows start to stop of a result, which may be a merged one, are this caller's."""

    @abstractmethod
    def failed(self, error: TidemillError) -> None:
        """There is no answer. The error may be shared with other calls."""

    def cancel(self) -> None:
        """The caller left: if the work has not begun it never does; if it has, its answer is dropped."""
        if not self.done:
            self.done = True
            if self.waits_in is not None:
                self.waits_in.forget(self)
