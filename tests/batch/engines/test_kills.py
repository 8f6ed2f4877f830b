"""kill -9 of drivers and of workers of Spark and Ray at their outside effects, then of the resume: all rows once.

`TIDEMILL_SWEEP=all` takes more moments.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.batch.engines.test_engines import sealed, wait_for
from tests.batch.support import make_package
from tests.batch.sweep.grounds import GROUNDS, ROWS
from tests.batch.sweep.sweeping import EVERY, Ground, Runs, watched
from tests.clusters import JVM
from tidemill.batch import score
from tidemill.batch.engines.options import EngineOptions, RayOptions, SparkOptions
from tidemill.batch.options import RunReport

pytestmark = [pytest.mark.xdist_group("clusters"), pytest.mark.timeout(1800 if EVERY else 300)]

DEAD = [i for i in range(ROWS) if i & 127 == 7]
WHOLE = [i for i in range(ROWS) if i & 127 != 7]
# What a driver is killed at: an effect by its name, and whether after it; or as soon as a shard is sealed.
Moment = tuple[str, bool]
SEALED = ("", False)
MOMENTS: dict[str, list[Moment]] = {
    "out": [("plan.json", True), SEALED, ("renameat2", False), ("renameat2", True), ("unlinkat", False)],
    # Of its own table nothing is seen from here but what comes before the commit, and after it.
    "postgres": [("plan.json", True), SEALED, ("dead.parquet", True), ("unlinkat", False)],
}
FEW: dict[tuple[str, str], list[tuple[Moment, Moment]]] = {
    ("spark", "out"): [(SEALED, ("renameat2", False))],
    ("ray", "out"): [(("plan.json", True), ("renameat2", True))],
    ("spark", "postgres"): [(("plan.json", True), ("unlinkat", False))],
    ("ray", "postgres"): [(SEALED, ("dead.parquet", True))],
}

# argv: package, source, sink, options
RUN = """
import contextlib, os, sys
import msgspec
from tidemill.batch import ScoreOptions, plan, score
plan.SHARD_ROWS = 400
with contextlib.suppress(FileNotFoundError):
    os.rmdir("/effects begin")
score(*sys.argv[1:4], msgspec.json.decode(sys.argv[4], type=ScoreOptions))
"""
# Counts what its process does to files, before it does it; the driver, which loads it too, is left alone. Ends at some
# of these moments, each of them once in all processes.
DYING = """
import os, signal, sys

count = 0

def ending(event, args):
    global count
    writes = event == "open" and isinstance(args[1], str) and args[1][:1] in ("w", "x", "a")
    if writes or event in ("os.rename", "os.link", "os.remove", "os.mkdir"):
        count += 1
        if count in {moments}:
            try:
                os.close(os.open("{flags}" + str(count), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

if os.getpid() != {driver}:
    sys.addaudithook(ending)

def before(rows):
    return rows
"""
SLOW = """
import time

def before(rows):
    time.sleep(0.1)
    return rows
"""


@pytest.fixture(params=["spark", "ray"])
def name(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue({"spark": "spark", "ray": "ray_cluster"}[request.param])
    return str(request.param)


@pytest.fixture(params=list(MOMENTS))
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ground(
    name: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str, str], Ground]:
    """A run of the engine that replaces an old output, by its number and the transform of its package."""
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 400)

    def made(number: str, transform: str) -> Ground:
        place = tmp_path / number
        place.mkdir()
        monkeypatch.chdir(place)
        package = make_package(place / "package", transform=transform)
        found = GROUNDS[target](place, package, True, request.getfixturevalue)
        found.options = msgspec.structs.replace(found.options, engine=EngineOptions(name=name))  # type: ignore[arg-type]
        return found

    return made


def killed(ground: Ground, runs: Runs, address: str, moment: Moment) -> None:
    """A driver in a process of its own, ended at a moment; it has a Spark of its own, but the same Ray."""
    what, after = moment
    spark = SparkOptions(master="local[2]", conf={"spark.driver.extraJavaOptions": JVM})
    engine = msgspec.structs.replace(ground.options.engine, spark=spark, ray=RayOptions(address=address or None))
    options = msgspec.json.encode(msgspec.structs.replace(ground.options, engine=engine)).decode()
    effects = {"LD_PRELOAD": str(runs.library), "EFFECTS_MATCH": what, "EFFECTS_KILL": "1"}
    driver = subprocess.Popen(
        [sys.executable, "-c", RUN, str(ground.package), ground.source, ground.sink, options],
        env=os.environ | (effects | ({"EFFECTS_AFTER": "1"} if after else {}) if what else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not what:
        stages = [ground.directory / ".out.tidemill-r1", ground.directory / "tidemill-runs" / "r1"]
        wait_for(lambda: any(sealed(s) for s in stages), driver)
        driver.send_signal(signal.SIGKILL)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == -signal.SIGKILL, err


def whole(ground: Ground, report: RunReport, before: list[int] | None, seen: list[list[int] | None]) -> None:
    """Every row once, nothing left, old or new at each moment, and a rerun does nothing."""
    assert (report.read, report.written, report.dead) == (ROWS, len(WHOLE), len(DEAD))
    assert Counter([*(ground.rows() or []), *ground.dead()]) == Counter(range(ROWS))
    assert (ground.rows(), ground.dead()) == (WHOLE, DEAD)
    assert [found for found in seen if found not in (before, WHOLE)] == []
    assert ground.left() == []
    kept = ground.kept()
    again = score(ground.package, ground.source, ground.sink, ground.options)
    assert again.state == "already_done"
    assert ground.kept() == kept


def test_a_driver_that_is_killed_and_again(
    name: str,
    target: str,
    ground: Callable[[str, str], Ground],
    runs: Runs,
    request: pytest.FixtureRequest,
) -> None:
    """Whatever its workers go on with meanwhile."""
    address = request.getfixturevalue("ray_cluster").address if name == "ray" else ""
    moments = MOMENTS[target]
    pairs = [(a, b) for a in moments for b in moments] if EVERY else FEW[name, target]
    for number, (first, second) in enumerate(pairs):
        if first[0] == "unlinkat" or (second == SEALED and first[0] != "plan.json"):
            continue  # the resume has nothing to do, or finds a sealed shard from the beginning
        hurt = ground(str(number), SLOW)
        before = hurt.rows()
        with watched(hurt) as seen:
            killed(hurt, runs, address, first)
            if first != ("renameat2", True):  # else the run is committed
                killed(hurt, runs, address, second)
            report = score(hurt.package, hurt.source, hurt.sink, hurt.options)
        whole(hurt, report, before, seen)


def test_workers_that_are_killed(ground: Callable[[str, str], Ground], tmp_path: Path) -> None:
    """At several of their effects, while others score."""
    for number, moments in enumerate([(n, n + 5) for n in range(1, 6)] if EVERY else [(2, 6)]):
        flags = tmp_path / f"died-{number}-"
        hurt = ground(str(number), DYING.format(moments=moments, flags=flags, driver=os.getpid()))
        before = hurt.rows()
        with watched(hurt) as seen:
            report = score(hurt.package, hurt.source, hurt.sink, hurt.options)
        assert Path(f"{flags}{moments[0]}").exists()
        whole(hurt, report, before, seen)
