"""Every engine of many machines: the output is the local engine's bit by bit, whatever dies and whoever comes twice."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import polars as pl
import psycopg
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.batch.databases.server import Server
from tests.batch.engines.poison import CODES, LIMITS, poison_package, poison_rows
from tests.batch.support import child, make_package, table, write
from tests.clusters import JVM, ONCE
from tidemill.batch import Progress, ScoreOptions, score
from tidemill.batch.engines.options import EngineOptions
from tidemill.batch.options import RunReport
from tidemill.errors import BudgetExceeded, SourceError

# The first test waits for its cluster.
pytestmark = [pytest.mark.xdist_group("clusters"), pytest.mark.timeout(300)]

ROWS = 12_000
BAD = 12


@pytest.fixture(params=["spark", "ray"])
def engine(request: pytest.FixtureRequest) -> EngineOptions:
    request.getfixturevalue({"spark": "spark", "ray": "ray_cluster"}[request.param])
    return EngineOptions(name=request.param)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files, a bad row in every thousand, and one row whose c is 77."""
    directory = tmp_path_factory.mktemp("source")
    rows = table(ROWS)
    rows = rows.set_column(1, "a", pc.if_else(pc.equal(pc.bit_wise_and(rows["id"], 1023), 7), -1.0, rows["a"]))
    rows = rows.set_column(3, "c", pc.if_else(pc.equal(rows["id"], 5_500), 77.0, rows["c"]))
    for i in range(3):
        write(rows.slice(i * ROWS // 3, ROWS // 3), directory / f"{i}.parquet", group=1000)
    return directory


def scored(directory: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.read_parquet(directory / "*.parquet"), pl.read_parquet(directory / "_tidemill/dead/*.parquet")


@pytest.fixture(scope="module")
def whole(package: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The local engine's output and dead letters."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert score(package, source, out, ScoreOptions(pass_through=("*",))).dead == BAD
    return scored(out)


def check(out: Path, report: RunReport, whole: tuple[pl.DataFrame, pl.DataFrame], *, shards: int = 12) -> None:
    """All of it, once, in its order, and nothing else beside it."""
    rows, dead = scored(out)
    assert rows.equals(whole[0])
    assert dead.equals(whole[1])
    assert (report.read, report.written, report.dead) == (ROWS, ROWS - BAD, BAD)
    assert len(list(out.glob("*.parquet"))) == report.shards == shards
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".out")]


@pytest.mark.usefixtures("small_shards")
def test_the_output_is_that_of_the_local_engine(
    engine: EngineOptions, package: Path, source: Path, whole: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    told: list[Progress] = []
    report = score(package, source, tmp_path / "out", ScoreOptions(pass_through=("*",), engine=engine), told.append)
    check(tmp_path / "out", report, whole)
    assert (told[-1].rows_read, told[-1].shards_done) == (ROWS, 12)
    assert told[-1].errors == {"below_minimum": BAD}


@pytest.mark.usefixtures("small_shards")
def test_a_single_file_is_in_the_order_of_the_input(
    engine: EngineOptions, package: Path, source: Path, whole: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    score(package, source, tmp_path / "out.parquet", ScoreOptions(pass_through=("*",), engine=engine))
    assert pl.read_parquet(tmp_path / "out.parquet").equals(whole[0])
    assert pl.read_parquet(tmp_path / "out.parquet.dead.parquet").equals(whole[1])


@pytest.mark.usefixtures("small_shards")
def test_a_worker_that_is_killed_costs_nothing(
    engine: EngineOptions, source: Path, whole: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    """The worker's own process, in the middle of a shard."""
    flag = tmp_path / "flag"
    code = ONCE.format(flag=str(flag), what="os.kill(os.getpid(), signal.SIGKILL)")
    package = make_package(tmp_path / "package", transform=code)
    report = score(package, source, tmp_path / "out", ScoreOptions(pass_through=("*",), engine=engine))
    assert flag.exists()
    check(tmp_path / "out", report, whole)
    manifest = msgspec.json.decode((tmp_path / "out/_tidemill/manifest.json").read_bytes())
    assert manifest["attempts"]["5"] >= 2


@pytest.mark.usefixtures("small_shards")
def test_a_call_that_fails_for_a_moment_is_made_again(
    engine: EngineOptions, source: Path, whole: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    code = "from tidemill.errors import Transient\n" + ONCE.format(flag=str(flag), what='raise Transient("busy")')
    package = make_package(tmp_path / "package", transform=code)
    report = score(package, source, tmp_path / "out", ScoreOptions(pass_through=("*",), engine=engine))
    assert flag.exists()
    check(tmp_path / "out", report, whole)


@pytest.mark.usefixtures("small_shards")
def test_progress_is_told_while_a_shard_goes_on(engine: EngineOptions, tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", transform=SLOW)
    source = write(table(1000), tmp_path / "in.parquet", group=1000)
    told: list[Progress] = []
    options = ScoreOptions(chunk_rows=50, call_rows=50, engine=engine)
    score(package, source, tmp_path / "out", options, told.append)
    assert any(0 < p.rows_read < 1000 and p.shards_done == 0 for p in told)
    assert [p.rows_read for p in told] == sorted(p.rows_read for p in told)
    assert told[-1].rows_read == 1000


@pytest.fixture(scope="module")
def poison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return poison_package(tmp_path_factory.mktemp("poison"))


@pytest.fixture(scope="module")
def survived(poison: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame, pl.DataFrame]:
    """Rows with one of each kind among them, and the local engine's output and dead letters."""
    directory = tmp_path_factory.mktemp("survived")
    source = poison_rows(directory / "in.parquet")
    score(poison, source, directory / "out", LIMITS)
    return source, *scored(directory / "out")


def test_rows_that_end_their_process_never_return_or_eat_its_memory_are_dead_letters(
    engine: EngineOptions, poison: Path, survived: tuple[Path, pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    """In a worker as on one machine, and their neighbours are answered."""
    source, rows, dead = survived
    report = score(poison, source, tmp_path / "out", msgspec.structs.replace(LIMITS, engine=engine))
    assert report.worker_deaths >= 3
    found = scored(tmp_path / "out")
    assert found[0].equals(rows)
    assert found[1].select("id", "_code").equals(dead.select("id", "_code"))
    assert dict(found[1].select("id", "_code").iter_rows()) == CODES


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_cannot_be_read_is_set_aside_where_the_job_says_so(
    engine: EngineOptions, package: Path, source: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "in.parquet"
    shutil.copyfile(source / "1.parquet", broken)
    place = pq.read_metadata(broken).row_group(2).column(0)
    with open(broken, "r+b") as file:
        file.seek(place.dictionary_page_offset or place.data_page_offset)
        file.write(b"\xff" * 32)
    options = ScoreOptions(pass_through=("id",), shard_tries=2, on_poisoned_shard="quarantine")
    whole = score(package, broken, tmp_path / "local", options)
    assert whole.quarantined_shards == 1
    report = score(package, broken, tmp_path / "out", msgspec.structs.replace(options, engine=engine))
    assert (report.errors, report.quarantined_shards) == (whole.errors, 1)
    assert scored(tmp_path / "out")[0].equals(scored(tmp_path / "local")[0])
    manifest = msgspec.json.decode((tmp_path / "out/_tidemill/manifest.json").read_bytes())
    assert manifest["attempts"]["2"] >= 2


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_cannot_be_read_fails_the_run_in_its_own_words(
    engine: EngineOptions, package: Path, tmp_path: Path
) -> None:
    lines = [b'{"id": %d, "a": 1, "b": 2, "c": 3}' % i for i in range(5000)]
    lines[4321] = b'{"id": 4321, "a": "eleven", "b": 2, "c": 3}'
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join(lines))
    texts = []
    for one in (EngineOptions(), engine):
        with pytest.raises(SourceError) as caught:
            score(package, source, tmp_path / "out", ScoreOptions(run_id="r1", shard_tries=1, engine=one))
        texts.append(str(caught.value))
    assert texts[1] == texts[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small_shards")
def test_over_the_budget_nothing_is_published(
    engine: EngineOptions, package: Path, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetExceeded, match="at most 3 may"):
        score(package, source, tmp_path / "out", ScoreOptions(max_errors=3, engine=engine))
    assert not (tmp_path / "out").exists()


# argv: package, source, sink, engine, address of Ray, options of Java
RUN = """
import sys
from tidemill.batch import ScoreOptions, plan, score
from tidemill.batch.engines.options import EngineOptions, RayOptions, SparkOptions
plan.SHARD_ROWS = 1000
spark = SparkOptions(master="local[2]", conf={"spark.driver.extraJavaOptions": sys.argv[6]})
engine = EngineOptions(name=sys.argv[4], spark=spark, ray=RayOptions(address=sys.argv[5]))
score(*sys.argv[1:4], ScoreOptions(run_id="r1", pass_through=("*",), engine=engine))
"""
SLOW = """
import time

def before(rows):
    time.sleep(0.2)
    return rows
"""


def sealed(stage: Path) -> dict[str, str]:
    """Sealed shards, and the parts that their markers name."""
    found = {}
    for path in (stage / "shards").glob("?????.json"):
        found[path.name] = msgspec.json.decode(path.read_bytes())["part"]["name"]
    return found


@pytest.mark.usefixtures("small_shards")
def test_a_driver_that_is_killed_is_gone_on_with(
    engine: EngineOptions,
    source: Path,
    whole: tuple[pl.DataFrame, pl.DataFrame],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """What was sealed stays as it is; the rest is scored again, while workers of the dead driver may still be there."""
    package = make_package(tmp_path / "package", transform=SLOW)
    out = tmp_path / "out"
    address = request.getfixturevalue("ray_cluster").address if engine.name == "ray" else ""
    driver = child(RUN, package, source, out, engine.name, address, JVM)
    stage = tmp_path / ".out.tidemill-r1"
    wait_for(lambda: len(sealed(stage)) >= 2, driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    kept = sealed(stage)
    report = score(package, source, out, ScoreOptions(run_id="r1", pass_through=("*",), engine=engine))
    assert report.resumed_shards >= len(kept) >= 2
    assert set(kept.values()) <= {p.name for p in out.glob("*.parquet")}
    check(out, report, whole)


def wait_for(condition: Callable[[], bool], driver: object = None, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        if driver is not None and driver.poll() is not None:
            raise AssertionError(driver.communicate())
        time.sleep(0.02)


@pytest.mark.usefixtures("small_shards")
def test_workers_read_the_copy_of_a_database_and_the_driver_writes_into_it(
    engine: EngineOptions, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers know no database: the copy lies in the stage, and only the driver publishes."""
    monkeypatch.chdir(tmp_path)
    server = Server()
    try:
        database = server.database("tides")
        with psycopg.connect(database, autocommit=True) as sql:
            made = "select i::bigint id, i::real a, 1::real b, null::real c from generate_series(1, 3000) i"
            sql.execute(f"create table rows as {made}")
            sql.execute("update rows set a = -1 where id = 1500")
            sql.execute("alter table rows add primary key (id)")
            options = ScoreOptions(pass_through=("id",), select=("score",), engine=engine)
            report = score(package, f"{database}?table=rows", f"{database}?table=scores", options)
            assert (report.read, report.written, report.dead) == (3000, 2999, 1)
            wrong = "select count(*) from rows r full join scores s using (id) where s.score is distinct from r.a + 1"
            assert sql.execute(wrong).fetchall() == [(1,)]
            assert sql.execute("select count(*), count(distinct id) from scores").fetchall() == [(2999, 2999)]
    finally:
        server.close()


class Cancelled(Exception):
    pass


@pytest.mark.usefixtures("small_shards")
def test_a_run_that_is_interrupted_ends_and_can_go_on(
    engine: EngineOptions, source: Path, whole: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    package = make_package(tmp_path / "package", transform=SLOW)
    options = ScoreOptions(run_id="r1", pass_through=("*",), engine=engine)

    def interrupt(progress: Progress) -> None:
        if progress.shards_done >= 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        score(package, source, tmp_path / "out", options, interrupt)
    assert not (tmp_path / "out").exists()
    report = score(package, source, tmp_path / "out", options)
    assert report.resumed_shards >= 2
    check(tmp_path / "out", report, whole)
