"""Logs: one JSON object a line on stderr. Feature values never go into them."""

from __future__ import annotations

import logging
import select
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

__all__ = ["JsonFormatter", "Sparing", "log_to_stderr"]

BURST = 20
PERIOD = 10.0
KINDS = 1024

# What every record has; whatever else is on one was given as `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """`time` (UTC), `level`, `logger`, `event` (the message), what was given as `extra`, `error` with its trace."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update((k, v) for k, v in record.__dict__.items() if k not in _STANDARD)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode()


class Sparing(logging.Filter):
    """Lets at most `BURST` warnings or errors of one kind pass in `PERIOD` seconds.

    One kind is one message of one logger, before its arguments; the next line of it tells how many were `left_out`.
    What floods a log hides what matters, and holds up whoever writes it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, str], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        if len(self._kinds) > KINDS:
            self._kinds.clear()
        # When its period began, how many passed in it, how many did not.
        kind = self._kinds.setdefault((record.name, str(record.msg)), [now, 0, 0])
        if now - kind[0] >= PERIOD:
            if kind[2]:
                record.left_out = int(kind[2])
            kind[:] = now, 0, 0
        if kind[1] >= BURST:
            kind[2] += 1
            return False
        kind[1] += 1
        return True


class _Unhurried(logging.StreamHandler[TextIO]):
    """Leaves out what whoever reads the log has no room for: answers wait for no log. The next line tells how many."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._unwritten = 0
        self._pipe = select.poll()
        try:
            self._pipe.register(stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):
            self._waits = False  # no file
        else:
            self._waits = True

    def emit(self, record: logging.LogRecord) -> None:
        # What is ready takes a page without waiting, or is gone, which the write finds out.
        if self._waits and not self._pipe.poll(0):
            self._unwritten += 1
            return
        if self._unwritten:
            record.unwritten, self._unwritten = self._unwritten, 0
        super().emit(record)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write the whole process's logs and warnings as JSON lines to stderr, in place of what was set up before."""
    handler = _Unhurried(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(Sparing())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
