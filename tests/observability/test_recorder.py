"""The file of counters: what is written is there, whatever becomes of its process."""

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.observability.families import LAST, QUEUED, REQUESTS
from tidemill.observability.reading import total
from tidemill.observability.recorder import CHUNK, HEAD, MAGIC, Recorder

LABELS = {"model": "m", "version": "1"}


def test_the_same_series_has_the_same_place(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    first = recorder.values(REQUESTS, **LABELS, outcome="ok")
    first[0] += 1
    again = recorder.values(REQUESTS, outcome="ok", version="1", model="m")
    again[0] += 1
    assert recorder.values(REQUESTS, **LABELS, outcome="late")[0] == 0.0
    assert first[0] == 2.0


def test_labels_are_those_of_the_family() -> None:
    with pytest.raises(ValueError, match=r"tidemill_requests_total: labels \['model'\]"):
        Recorder().values(REQUESTS, model="m")


def test_what_does_not_fit_one_file_goes_into_the_next(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    models = 2 * CHUNK // 180
    for number in range(models):
        recorder.values(QUEUED, model=str(number), version="1")[0] = number
    files = list(tmp_path.iterdir())
    assert len(files) > 1
    assert all(path.stat().st_size == CHUNK for path in files)
    assert sorted(one.values[0] for one in total(tmp_path).series.values()) == list(range(models))
    assert total(tmp_path).processes == 1


def test_the_head_says_what_it_is(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    (path,) = tmp_path.iterdir()
    magic, version, head, pid, _, used = HEAD.unpack(path.read_bytes()[: HEAD.size])
    assert (magic, version, head, pid, used) == (MAGIC, 1, 64, os.getpid(), 64)
    recorder.values(LAST, **LABELS)[0] = 7.5
    used = HEAD.unpack(path.read_bytes()[: HEAD.size])[-1]
    assert struct.unpack("<d", path.read_bytes()[used - 8 : used]) == (7.5,)


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    program = """
import sys
from tidemill.observability.families import REQUESTS
from tidemill.observability.recorder import Recorder
ok = Recorder(sys.argv[1]).values(REQUESTS, model="m", version="1", outcome="ok")
while True:
    ok[0] += 1
    sys.stdout.write(f"{ok[0]:.0f}\\n")
    sys.stdout.flush()
"""
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        for _ in range(1000):
            child.stdout.readline()
        assert total(tmp_path).processes == 1
        child.send_signal(signal.SIGKILL)
        told = child.stdout.read().split()
    child.wait()
    totals = total(tmp_path)
    assert totals.processes == 0
    # It may have counted one more than it could say.
    assert totals.of(REQUESTS.name)[0].values[0] - int(told[-1] if told[-1:] else 1000) in (0, 1)
