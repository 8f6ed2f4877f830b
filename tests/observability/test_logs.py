"""Every line on stderr is one JSON object, whatever wrote it."""

import json
import logging
import subprocess
import sys

from tidemill.observability.logs import BURST, PERIOD, Sparing

PROGRAM = """
import logging, warnings
import numpy as np
from tidemill.observability.logs import log_to_stderr
log_to_stderr()
log = logging.getLogger("mine")
log.info("a %s line", "plain", extra={"model": "m", "size": np.int64(3), "where": {"x": (1, 2)}})
log.debug("not this one")
warnings.warn("careful", RuntimeWarning)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("it failed\\nbadly")
"""


def test_lines_are_json() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    plain, warning, error = (json.loads(line) for line in done.stderr.splitlines())
    assert done.stdout == ""
    time = plain.pop("time")
    assert time.endswith("+00:00")
    assert plain == {
        "level": "info",
        "logger": "mine",
        "event": "a plain line",
        "model": "m",
        "size": 3,
        "where": {"x": [1, 2]},
    }
    assert (warning["level"], warning["logger"]) == ("warning", "py.warnings")
    assert "careful" in warning["event"]
    assert error["event"] == "it failed\nbadly"
    assert "ZeroDivisionError" in error["error"]


def test_a_flood_of_one_kind_is_cut_and_told() -> None:
    now = 0.0
    spare = Sparing(lambda: now)

    def passes(level: int, message: str, *arguments: object) -> int | None:
        """How many were left out before this one; None if this one is."""
        record = logging.makeLogRecord({"name": "x", "levelno": level, "msg": message, "args": arguments})
        return getattr(record, "left_out", 0) if spare.filter(record) else None

    assert [passes(logging.ERROR, "no %d", n) for n in range(BURST + 5)] == [0] * BURST + [None] * 5
    assert passes(logging.ERROR, "another") == 0
    assert [passes(logging.INFO, "said") for _ in range(3 * BURST)] == [0] * 3 * BURST
    now = PERIOD
    assert [passes(logging.ERROR, "no %d", n) for n in range(2)] == [5, 0]
