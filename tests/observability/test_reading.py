"""Many processes as one: living and dead, whole and broken, and files that are made one."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill.observability.families import QUEUED, REQUESTS, STARTED
from tidemill.observability.reading import RETIRED, retire, total
from tidemill.observability.recorder import Recorder

PROGRAM = """
import os, sys
from tidemill.observability.families import LAST, QUEUED, REQUESTS, STARTED
from tidemill.observability.recorder import Recorder
recorder = Recorder(sys.argv[1])
recorder.values(REQUESTS, model="m", version="1", outcome="ok")[0] += float(sys.argv[2])
recorder.values(QUEUED, model="m", version="1")[0] = 100
os.kill(os.getpid(), 9)
"""


def one_that_dies(directory: Path, count: int) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(directory), str(count)], check=False)


def counted(directory: Path) -> float:
    return sum(one.values[0] for one in total(directory).of(REQUESTS.name))


def test_counts_of_all_and_gauges_of_the_living(tmp_path: Path) -> None:
    one_that_dies(tmp_path, 3)
    recorders = [Recorder(tmp_path), Recorder(tmp_path)]
    for started, recorder in enumerate(recorders, 1):
        recorder.values(REQUESTS, model="m", version="1", outcome="ok")[0] += 10
        recorder.values(QUEUED, model="m", version="1")[0] = 5
        recorder.values(STARTED)[0] = started
    totals = total(tmp_path)
    assert counted(tmp_path) == 23
    assert totals.of(QUEUED.name)[0].values == [10.0]
    assert totals.of(STARTED.name)[0].values == [1.0]


def test_a_directory_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert total(tmp_path / "no").series == {}


def test_restarts_do_not_fill_the_directory(tmp_path: Path) -> None:
    for count in range(1, 6):
        one_that_dies(tmp_path, count)
        assert retire(tmp_path) == 1
        assert [path.name for path in tmp_path.iterdir()] == [RETIRED]
        assert counted(tmp_path) == sum(range(count + 1))
    assert retire(tmp_path) == 0


def test_the_living_are_not_retired(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    place = recorder.values(REQUESTS, model="m", version="1", outcome="ok")
    place[0] += 1
    one_that_dies(tmp_path, 4)
    assert retire(tmp_path) == 1
    place[0] += 1
    assert counted(tmp_path) == 6


def test_killed_before_the_old_files_are_gone_nothing_counts_twice(tmp_path: Path) -> None:
    one_that_dies(tmp_path, 3)
    (path,) = tmp_path.iterdir()
    kept = tmp_path.parent / f"{tmp_path.name}-kept"
    shutil.copy(path, kept)
    retire(tmp_path)
    shutil.move(kept, path)
    assert counted(tmp_path) == 3
    one_that_dies(tmp_path, 4)
    assert counted(tmp_path) == 7
    assert retire(tmp_path) == 1
    assert counted(tmp_path) == 7
    assert [path.name for path in tmp_path.iterdir()] == [RETIRED]


def test_whoever_reads_meanwhile_sees_no_count_fall(tmp_path: Path) -> None:
    for count in range(1, 9):
        one_that_dies(tmp_path, count)
    paths = list(tmp_path.iterdir())
    apart = tmp_path.parent / f"{tmp_path.name}-apart"
    apart.mkdir()
    for path in paths:
        path.rename(apart / path.name)
    seen: list[float] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(counted(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    for path in paths:
        (apart / path.name).rename(path)
        before = len(seen)
        while len(seen) < before + 2:
            pass
        retire(tmp_path)
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert counted(tmp_path) == 36


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda data: data[:10], "10 bytes are no head"),
        (lambda data: b"", "0 bytes are no head"),
        (lambda data: b"NOTMINE!" + data[8:], "not a file of counters"),
        (lambda data: data[:8] + b"\x02" + data[9:], "version 2"),
        (lambda data: data[:32] + b"\xff" * 8 + data[40:], "bytes used of"),
        (lambda data: data[:64] + b"\xff\xff\xff\xff" + data[68:], "does not fit"),
        (lambda data: data[:64] + b"\0\0\0\0" + data[68:], "does not fit"),
        (lambda data: data[:90] + b"?" + data[91:], "is damaged"),
        (lambda data: data[:100], "bytes used of 100"),
    ],
    ids=["short", "empty", "other", "later", "used", "size", "zero", "name", "cut"],
)
def test_a_broken_file_is_told_and_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[bytes], bytes], told: str
) -> None:
    one_that_dies(tmp_path, 3)
    one_that_dies(tmp_path, 4)
    broken = max(tmp_path.iterdir())
    broken.write_bytes(harm(broken.read_bytes()))
    assert counted(tmp_path) == 3
    totals = total(tmp_path)
    assert list(totals.unreadable) == [broken.name]
    assert told in totals.unreadable[broken.name]
    assert any(getattr(record, "file", "") == broken.name for record in caplog.records)
    assert retire(tmp_path) == 1
    assert broken.exists()
    assert counted(tmp_path) == 3


def test_a_broken_retired_file_is_told_and_never_written_over(tmp_path: Path) -> None:
    one_that_dies(tmp_path, 3)
    retire(tmp_path)
    (tmp_path / RETIRED).write_bytes(b"not this")
    one_that_dies(tmp_path, 4)
    assert retire(tmp_path) == 0
    assert (tmp_path / RETIRED).read_bytes() == b"not this"
    assert list(total(tmp_path).unreadable) == [RETIRED]
    assert counted(tmp_path) == 4


def test_others_make_files_one_at_the_same_time(tmp_path: Path) -> None:
    one_that_dies(tmp_path, 3)
    lock = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert retire(tmp_path) == 0
    finally:
        os.close(lock)
    assert retire(tmp_path) == 1
