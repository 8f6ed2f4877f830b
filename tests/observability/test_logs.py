"""Every line on stderr is one JSON object, whatever wrote it."""

import json
import subprocess
import sys

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
