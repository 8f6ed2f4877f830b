"""Worker processes end with their driver, are replaced when somebody ends them, and prove themselves before row one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from tests.batch.support import child
from tests.batch.workers.support import MODEL, STUCK, check_whole, poisonous, rows_with
from tidemill.batch import Progress, ScoreOptions, score
from tidemill.errors import RunError
from tidemill.model.samples import write_samples

OPTIONS = ScoreOptions(pass_through=("id",), workers=2, chunk_rows=500, run_id="r1")

RUN = """
import sys
from tidemill.batch import ScoreOptions, score
score(*sys.argv[1:4], ScoreOptions(run_id="r1", call_timeout=600, workers=1))
"""


def workers_of(pid: int) -> list[psutil.Process]:
    """Its workers that live. Processes that ended meanwhile, or wait for other tests to notice it, are none."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "tidemill.batch.workers.worker" in process.cmdline():
                    found.append(process)
    return found


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stuck_worker_ends_with_its_driver(tmp_path: Path, end: signal.Signals) -> None:
    model = MODEL.replace("while True:", "open(os.environ['TEST_AT'], 'w').close()\n            while True:", 1)
    package = poisonous(tmp_path / "package", model)
    source = rows_with(10, {3: STUCK}, tmp_path / "in.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_AT", str(tmp_path / "at"))
        driver = child(RUN, package, source, tmp_path / "out")
    wait_for((tmp_path / "at").exists)
    (worker,) = workers_of(driver.pid)
    driver.send_signal(end)
    driver.communicate(timeout=60)
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert not (tmp_path / "out").exists()


def test_a_worker_that_somebody_kills_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_MODEL_SLEEP", "0.06")
    package = poisonous(tmp_path / "package")
    source = rows_with(10_000, {}, tmp_path / "in.parquet")
    killed: list[int] = []
    seen: dict[int, float] = {}
    done = threading.Event()

    def kill() -> None:
        # One that is still starting would be started again, but not for ever.
        while not done.wait(0.1):
            for worker in workers_of(os.getpid()):
                old = time.monotonic() - seen.setdefault(worker.pid, time.monotonic()) > 1.5
                if old and worker.pid not in killed and len(killed) < 3:
                    killed.append(worker.pid)
                    worker.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        options = ScoreOptions(pass_through=("id",), workers=2, chunk_rows=500, call_rows=50)
        report = score(package, source, tmp_path / "out", options)
    finally:
        done.set()
        killer.join()
    assert len(killed) == 3
    assert (report.written, report.dead) == (10_000, 0)
    check_whole(tmp_path / "out", 10_000, set())


def test_one_that_cannot_load_the_package_ends_the_run(tmp_path: Path) -> None:
    once = "open('{}', 'x').close(); self.failed"
    package = poisonous(tmp_path / "package", MODEL.replace("self.failed", once.format(tmp_path / "once"), 1))
    with pytest.raises(
        RunError, match=r"a worker process cannot answer: model\.py: Model cannot be loaded: FileExists"
    ):
        score(package, rows_with(10, {}, tmp_path / "in.parquet"), tmp_path / "out", OPTIONS)
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []


def test_one_that_dies_of_loading_ends_the_run(tmp_path: Path) -> None:
    once = f"os.path.exists('{tmp_path}/once') and os._exit(7); open('{tmp_path}/once', 'x').close(); self.failed"
    package = poisonous(tmp_path / "package", MODEL.replace("self.failed", once, 1))
    with pytest.raises(RunError, match="a worker process cannot be started: it ended itself with exit status 7"):
        score(package, rows_with(10, {}, tmp_path / "in.parquet"), tmp_path / "out", OPTIONS)


def test_one_that_answers_none_of_its_samples_ends_the_run(tmp_path: Path) -> None:
    write_samples(tmp_path / "s", pa.record_batch({"x": [-5.0, -5.0]}), pa.record_batch({"y": [-10.0, -10.0]}))
    files = {"samples.arrow": (tmp_path / "s").read_bytes()}
    package = poisonous(tmp_path / "package", files=files, samples="samples.arrow")
    told: list[Progress] = []
    with pytest.raises(RunError, match="answers none of its own samples: the model failed: ValueError: five below"):
        score(package, rows_with(10, {}, tmp_path / "in.parquet"), tmp_path / "out", OPTIONS, told.append)
    assert told == []


def test_no_worker_is_left_behind(tmp_path: Path) -> None:
    package = poisonous(tmp_path / "package")
    score(package, rows_with(5000, {}, tmp_path / "in.parquet"), tmp_path / "out", OPTIONS)
    assert workers_of(os.getpid()) == []


FORKS = {
    "load": (MODEL.replace("self.failed = 0", "self.failed = 0; os.fork()"), {}),
    "predict": (MODEL.replace("time.sleep", "os.fork(); time.sleep"), {}),
    "raise": (MODEL.replace("time.sleep", "not os.fork() and [][0]; time.sleep"), {}),
    "transform": (MODEL, {"transform": "transform.py"}),
}
TRANSFORM = """
import os

def before(rows):
    os.fork()
    return rows
"""


@pytest.mark.parametrize("where", FORKS)
def test_a_model_that_forks_answers_once(tmp_path: Path, where: str) -> None:
    """A child that went on in the model's place would give each chunk the answers of an earlier one."""
    model, more = FORKS[where]
    files = dict.fromkeys(more.values(), TRANSFORM)
    package = poisonous(tmp_path / "package", model, files=files, **more)
    source = rows_with(4000, {}, tmp_path / "in.parquet")
    report = score(package, source, tmp_path / "out", OPTIONS)
    assert (report.read, report.written) == (4000, 4000)
    check_whole(tmp_path / "out", 4000, set())
