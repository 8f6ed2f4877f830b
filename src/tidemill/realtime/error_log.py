"""What models raise, in the server's log: now and then one line, and never a feature value."""

from __future__ import annotations

import logging
import os
import threading
from time import monotonic

from tidemill.errors import ModelError

__all__ = ["ErrorLog"]

log = logging.getLogger(__name__)

# Seconds between two lines of one model.
PAUSE = 10.0


class ErrorLog:
    """Told of every exception of one model version, from any thread.

    A line has its type and where it was raised. Its text is user code's and may quote what a caller sent: it is left
    out. `times` counts the exceptions since the line before.
    """

    def __init__(self, model: str, version: str) -> None:
        self._model = model
        self._version = version
        self._times = 0
        self._next = 0.0
        self._lock = threading.Lock()

    def __call__(self, error: BaseException) -> None:
        """The model raised."""
        with self._lock:
            self._times += 1
            now = monotonic()
            if now < self._next:
                return
            self._next = now + PAUSE
            times, self._times = self._times, 0
        told = {"model": self._model, "version": self._version, "error": type(error).__name__, "times": times}
        # What Tidemill itself says of a model's answer names outputs, types and shapes only.
        told |= {"reason": str(error)} if isinstance(error, ModelError) else {"where": _where(error)}
        log.warning("the model raised", extra=told)


def _where(error: BaseException) -> str:
    """FILE:LINE of the innermost frame, without the directories."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace is not None else ""
