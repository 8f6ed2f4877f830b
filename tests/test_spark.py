"""A DataFrame through the path, on a real cluster: every row once, answered as the local engine answers it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.support import make_package, table
from tests.clusters import ONCE
from tests.packages import make
from tidemill.batch import ScoreOptions
from tidemill.batch import score as score_files
from tidemill.errors import ConfigError, InputError, TidemillError
from tidemill.model.signature import Input, Output
from tidemill.spark import score, split

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# The first test waits for its cluster.
pytestmark = [pytest.mark.xdist_group("clusters"), pytest.mark.timeout(300)]

ROWS = 6_000


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package") / "sums")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files; a row in every thousand that breaks the signature, and one whose c is 77."""
    directory = tmp_path_factory.mktemp("source")
    a, c = table(ROWS)["a"].to_pylist(), table(ROWS)["c"].to_pylist()
    for i in range(7, ROWS, 1000):
        a[i] = -1.0
    c[2_500] = 77.0
    rows = table(ROWS).set_column(1, "a", pa.array(a, pa.float32())).set_column(3, "c", pa.array(c, pa.float32()))
    for i in range(6):
        pq.write_table(rows.slice(i * 1000, 1000), directory / f"{i}.parquet")
    return directory


@pytest.fixture(scope="module")
def whole(package: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The local engine's output and dead letters."""
    out = tmp_path_factory.mktemp("whole") / "out"
    score_files(package, source, out, ScoreOptions(pass_through=("*",)))
    return pl.read_parquet(out / "*.parquet"), pl.read_parquet(out / "_tidemill/dead/*.parquet")


def frame(spark: SparkSession, source: Path) -> DataFrame:
    return spark.read.parquet(f"file:{source}").repartition(6)


def rows_of(df: DataFrame) -> pl.DataFrame:
    """By id: Spark keeps no order."""
    return pl.DataFrame(pl.from_arrow(df.toArrow())).sort("id")


def check(scored: DataFrame, whole: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    found = rows_of(scored)
    answered, dead = found.filter(pl.col("_status") == "ok"), found.filter(pl.col("_status") != "ok")
    assert len(found) == ROWS
    good = whole[0].with_columns(pl.col("pair").cast(pl.List(pl.Float32)))
    assert answered.select(good.columns).equals(good)
    letters = whole[1].select("id", "a", "b", "c", "label", "_code", "_field", "_message")
    assert dead.select(letters.columns).equals(letters)


def test_every_row_is_answered_as_the_local_engine_answers_it(
    spark: SparkSession, package: Path, source: Path, whole: tuple[pl.DataFrame, pl.DataFrame]
) -> None:
    check(score(frame(spark, source), package), whole)


def test_a_package_is_loaded_once_by_each_worker(spark: SparkSession, source: Path, tmp_path: Path) -> None:
    loads = tmp_path / "loads"
    code = f"import os\nwith open({str(loads)!r}, 'a') as file:\n    print(os.getpid(), file=file)\n\n"
    package = make_package(tmp_path / "package", transform=code + "def before(rows):\n    return rows\n")
    for _ in range(2):  # twelve tasks and more
        assert score(frame(spark, source), package).count() == ROWS
    pids = loads.read_text().split()[1:]  # the first is this process
    assert 1 <= len(pids) == len(set(pids)) <= 4


COUNTED = """
def before(rows):
    with open({asked!r}, "a") as file:
        print(len(rows["x"]), file=file)
    return rows
"""


def test_split_asks_the_model_once(spark: SparkSession, source: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    package = make_package(tmp_path / "package", transform=COUNTED.format(asked=str(asked)))
    scored = score(frame(spark, source), package)
    answered, dead = split(scored)
    assert (answered.count(), dead.count()) == (ROWS - 6, 6)
    assert answered.columns == ["id", "a", "b", "c", "label", "score", "pair", "verdict"]
    assert dead.columns == ["id", "a", "b", "c", "label", "_status", "_code", "_field", "_message"]
    assert {r._message for r in dead.collect()} == {"a: got -1.0, expected ≥ 0"}
    # Three looks; of each task there may be a second attempt.
    assert ROWS - 6 <= sum(map(int, asked.read_text().split())) <= 2 * (ROWS - 6)
    scored.unpersist()


def test_split_of_something_else(spark: SparkSession) -> None:
    with pytest.raises(InputError, match="the frame has no column '_status'"):
        split(spark.range(3))


@pytest.mark.parametrize("what", ["os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(60)"])
def test_a_worker_that_dies_or_hangs_changes_nothing(
    spark: SparkSession, source: Path, whole: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path, what: str
) -> None:
    """Spark tries a task again whose Python worker died, and gives a second attempt to one that is late."""
    flag = tmp_path / "flag"
    package = make_package(tmp_path / "package", transform=ONCE.format(flag=str(flag), what=what))
    check(score(frame(spark, source), package), whole)
    assert flag.exists()


@pytest.mark.parametrize(
    ("change", "wishes", "message"),
    [
        (lambda df: df.drop("b"), {}, "column 'b' is missing; the table has 'id', 'a', 'c', 'label'"),
        (lambda df: df.withColumn("b", df.label), {}, "b: "),
        (lambda df: df.withColumnRenamed("label", "score"), {}, "column 'score' is both passed through and a model"),
        (lambda df: df, {"pass_through": ["nobody"]}, "pass_through: the table has no column 'nobody'"),
        (lambda df: df, {"select": ["nothing"]}, "select: the model has no output 'nothing'"),
        (lambda df: df.select("*", df.id), {}, "the table has 2 columns named 'id'; keep one"),
        (lambda df: df.withColumnRenamed("label", "SCORE"), {}, "column 'SCORE' is, for Spark, the same as 'score'"),
        (lambda df: df.withColumnRenamed("label", "_STATUS"), {}, "column '_STATUS' is, for Spark, the same as"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(
    spark: SparkSession, package: Path, source: Path, change: Any, wishes: dict[str, Any], message: str
) -> None:
    df = change(frame(spark, source))
    context = spark.sparkContext
    context.setJobGroup("nothing", "runs")
    try:
        with pytest.raises((ConfigError, InputError)) as caught:
            score(df, package, **wishes)
        assert message in str(caught.value)
        assert context.statusTracker().getJobIdsForGroup("nothing") == []
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


def test_names_that_spark_reads_as_something_else(spark: SparkSession, package: Path) -> None:
    df = spark.createDataFrame([(1.0, 2.0, 3.0, "x", 7)], "a float, b float, c float, `my.label` string, `t``ick` int")
    [row] = score(df, package, pass_through=["my.label"], select=["score"]).collect()
    assert row.asDict() == {
        "my.label": "x", "score": 6.0, "_status": "ok", "_code": None, "_field": None, "_message": None,
    }  # fmt: skip
    assert score(df, package).columns[:5] == df.columns


def test_times_are_passed_through_as_they_are(spark: SparkSession, package: Path) -> None:
    df = spark.createDataFrame([(1.0, 2.0, 3.0)], "a float, b float, c float").selectExpr(
        "*",
        "timestamp'2026-03-29 02:30:00' as at",
        "timestamp_ntz'2026-03-29 02:30:00' as local",
        "date'2026-03-29' as day",
        "named_struct('x', array(timestamp'1900-01-01 00:00:00')) as nested",
    )
    text = "cast(struct(at, local, day, nested) as string) as all"
    [before], [after] = df.selectExpr(text).collect(), score(df, package).selectExpr(text).collect()
    assert before == after


WIDE = """
import numpy as np

class Model:
    inputs = {"x": ("INT64", [-1])}
    outputs = {"u1": ("UINT8", [-1]), "u8": ("UINT64", [-1]), "h": ("FP16", [-1, 2]), "flag": ("BOOL", [-1])}

    def predict(self, rows):
        x = rows["x"]
        n, half = len(x), np.stack([x, x], axis=1).astype(np.float16)
        return {"u1": np.full(n, 255, np.uint8), "u8": np.full(n, 2**64 - 1, np.uint64), "h": half, "flag": x > 1}
"""


def test_types_that_spark_lacks_become_wider_ones(spark: SparkSession, tmp_path: Path) -> None:
    outputs = [
        Output(name="u1", datatype="UINT8"),
        Output(name="u8", datatype="UINT64"),
        Output(name="h", datatype="FP16", shape=(-1, 2)),
        Output(name="flag", datatype="BOOL"),
    ]
    package = make(tmp_path / "wide", "python", WIDE, [Input(name="x", datatype="INT64")], outputs).directory
    df = spark.createDataFrame([(1,), (2,), (None,)], "x long").coalesce(1)
    found = score(df, package).select("x", "u1", "u8", "h", "flag", "_code").collect()
    assert [tuple(r) for r in found] == [
        (1, 255, 2**64 - 1, [1.0, 1.0], False, None),
        (2, 255, 2**64 - 1, [2.0, 2.0], True, None),
        (None, None, None, None, None, "null"),
    ]


def test_without_pyspark_one_line_says_what_to_install(package: Path) -> None:
    code = (
        "import sys\nsys.modules['pyspark'] = None\n"
        "from tidemill.errors import MissingExtra\nfrom tidemill.spark import score\n"
        "try:\n    score(None, sys.argv[1])\nexcept MissingExtra as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tidemill.spark (module pyspark")
    assert done.stdout.endswith("needs the 'spark' extra: pip install 'tidemill[spark]'\n")


CONNECT = """
import sys
from pyspark.sql import SparkSession
from tidemill.spark import score, split

session = SparkSession.builder.remote(sys.argv[3]).getOrCreate()
for _ in range(2):  # the package is sent once
    scored = score(session.read.parquet("file:" + sys.argv[2]), sys.argv[1])
answered, dead = split(scored)
print(type(scored).__module__, answered.count(), dead.count(), *dead.columns)
session.stop()
"""


def test_a_connect_session(spark: SparkSession, package: Path, source: Path) -> None:
    port = spark.conf.get("spark.connect.grpc.binding.port")
    command = [sys.executable, "-c", CONNECT, package, source, f"sc://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1:] == [
        f"pyspark.sql.connect.dataframe {ROWS - 6} 6 id a b c label _status _code _field _message"
    ], done.stderr


def test_a_session_that_sends_no_archives(spark: SparkSession, package: Path) -> None:
    session = spark.newSession()
    session.conf.set("spark.sql.artifact.isolation.enabled", "true")
    with pytest.raises(ConfigError, match="a classic session then sends no archive to its workers; turn it off"):
        score(session.sql("select 1f a, 2f b, 3f c"), package)


def test_a_package_that_is_none(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(TidemillError, match="not a model package"):
        score(spark.range(1), tmp_path)
