"""What a model raises leaves a line in the log that tells where, and nothing of what was sent."""

import json
import logging
from pathlib import Path

import pytest

from tests.realtime import packages
from tests.realtime.http_client import eventually
from tests.realtime.serving import served

SECRET = """
class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def predict(self, rows):
        if (rows["x"] == 0).all():
            return {"y": rows["x"]}
        raise ValueError(f"cannot take {rows['x'][0]}")
"""

WRONG = """
class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def predict(self, rows):
        return {"y": rows["x"].astype("int32")} if rows["x"][0] else {"y": rows["x"]}
"""


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message == "the model raised"]


def test_one_line_tells_of_many_exceptions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = packages.scalar(tmp_path, "secret", SECRET)
    with served([model]) as server:
        for _ in range(20):
            answer = server.infer("secret", rows=[{"x": 4111_1111}])
            assert answer.status_code == 500
        (line,) = lines(caplog)
    told = {name: getattr(line, name) for name in ("model", "version", "error", "where", "times")}
    assert told == {"model": "secret", "version": "1", "error": "ValueError", "where": "model.py:9", "times": 1}
    assert "4111" not in json.dumps({k: repr(v) for record in caplog.records for k, v in vars(record).items()})


def test_what_tidemill_says_of_an_answer_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served([packages.scalar(tmp_path, "wrong", WRONG)]) as server:
        assert server.infer("wrong", rows=[{"x": 7.0}]).status_code == 500
        eventually(lambda: lines(caplog))
    (line,) = lines(caplog)
    assert line.reason == "output 'y' is int32, declared FP64"  # type: ignore[attr-defined]
