"""A run on AWS Batch, from its submission to its commit: moto keeps the jobs and the store, containers are processes.

They end in any order, one is started twice, one is killed, one is told to leave; and the output is the one of a run
that nothing happened to.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.engines.aws_batch.host import LOST_HOST, Host
from tests.batch.support import answers, table
from tests.moto_server import Aws
from tests.packages import make
from tidemill.batch.engines.aws_batch.leaving import GRACE_SECONDS
from tidemill.batch.engines.aws_batch.options import AwsBatchOptions
from tidemill.batch.engines.aws_batch.requests import GAVE_UP
from tidemill.batch.engines.aws_batch.submit import Submitted, submit
from tidemill.batch.engines.options import EngineOptions
from tidemill.batch.job import Job
from tidemill.batch.jobs.index import RunIndex
from tidemill.batch.options import ScoreOptions
from tidemill.batch.stage import open_stage
from tidemill.model.package import open_package

ROWS = 7500
CHUNK = 50

# Takes as long for each chunk as the environment says, and counts them there.
TRANSFORM = """
import os, time

def before(rows):
    time.sleep(float(os.environ.get("DAWDLE", "0")))
    if "COUNTED" in os.environ:
        with open(os.environ["COUNTED"], "a") as file:
            file.write(".")
    return rows
"""


@pytest.fixture(scope="session")
def slow(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of all batch tests, which can be made slow."""
    plain = open_package(package)
    manifest = plain.manifest
    return make(
        tmp_path_factory.mktemp("slow") / "sums",
        "onnx",
        plain.path(manifest.runtime.artifact).read_bytes(),
        manifest.inputs,
        manifest.outputs,
        files={"transform.py": TRANSFORM},
        transform="transform.py",
    ).directory


class Bucket:
    """A bucket with an input of ROWS rows in three files, one bad row in every thousand."""

    def __init__(self, aws: Aws) -> None:
        self.client, self.name = aws.client("s3"), aws.bucket()
        rows = table(ROWS)
        bad = pa.array([-1.0 if i % 1000 == 7 else v for i, v in enumerate(rows["a"].to_pylist())], pa.float32())
        self.rows = rows.set_column(1, "a", bad)
        for i in range(3):
            self.put(f"in/{i}.parquet", self.rows.slice(i * ROWS // 3, ROWS // 3))

    def put(self, name: str, rows: pa.Table) -> None:
        data = io.BytesIO()
        pq.write_table(rows, data, row_group_size=500)
        self.client.put_object(Bucket=self.name, Key=name, Body=data.getvalue())

    def names(self, prefix: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return [o["Key"].removeprefix(prefix) for o in found]

    def read(self, name: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=name)["Body"].read()
        return data

    def check_output(self, directory: Path) -> None:
        """Every row is once in the output that the manifest names, or once in the dead letters."""
        manifest = msgspec.json.decode(self.read("out/_tidemill/manifest.json"))
        for kind, names in (
            ("rows", [f"out/{p['name']}" for p in manifest["parts"]]),
            ("dead", [f"out/{n}" for n in self.names("out/") if n.startswith("_tidemill/dead/")]),
        ):
            (directory / kind).mkdir()
            for i, name in enumerate(names):
                (directory / kind / f"{i}.parquet").write_bytes(self.read(name))
        with duckdb.connect() as reader:
            found = reader.execute(f"select id, score from '{directory}/rows/*.parquet' order by id").fetchall()
            dead = reader.execute(f"select _row, id from '{directory}/dead/*.parquet' order by id").fetchall()
        good = [i for i in range(ROWS) if i % 1000 != 7]
        scores = answers(self.rows)["score"]
        assert found == [(i, scores[i]) for i in good]
        assert dead == [(i % (ROWS // 3), i) for i in range(7, ROWS, 1000)]
        assert (manifest["read"], manifest["written"], manifest["dead"]) == (ROWS, len(good), len(dead))


@pytest.fixture
def bucket(aws: Aws) -> Bucket:
    return Bucket(aws)


@pytest.fixture
def index(tmp_path: Path) -> RunIndex:
    return RunIndex(tmp_path / "home")


Giving = Callable[..., Submitted]


@pytest.fixture
def give(slow: Path, bucket: Bucket, queue: str, index: RunIndex, monkeypatch: pytest.MonkeyPatch) -> Giving:
    """Submits a run of the bucket's job."""
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)

    def given(run_id: str = "r1", **table: Any) -> Submitted:
        submitted = submit(a_job(slow, bucket, queue, run_id, **table), index=index)
        assert isinstance(submitted, Submitted)
        return submitted

    return given


def a_job(package: Path, bucket: Bucket, queue: str, run_id: str = "r1", **table: Any) -> Job:
    options = AwsBatchOptions(
        queue=queue, image="registry.example/tidemill:1", stage=f"s3://{bucket.name}/runs", **table
    )
    return Job(
        name="nightly",
        package=str(package),
        source=f"s3://{bucket.name}/in/",
        sink=f"s3://{bucket.name}/out/",
        options=ScoreOptions(
            run_id=run_id,
            pass_through=("id",),
            chunk_rows=CHUNK,
            workers=1,
            engine=EngineOptions(name="aws_batch", aws_batch=options),
        ),
    )


def sealed(submitted: Submitted) -> set[int]:
    """The shards that have a marker."""
    stage = open_stage(f"{submitted.root}/stage")
    return {i for i in range(submitted.shards) if stage.get(f"shards/{i:05d}.json") is not None}


def test_a_run_through_everything_that_happens_to_containers(
    aws: Aws, bucket: Bucket, give: Giving, tmp_path: Path
) -> None:
    submitted = give(children=4)
    host, job, commit = Host(aws, tmp_path), submitted.submission.score_job, submitted.submission.commit_job
    counted = tmp_path / "counted"
    assert job is not None
    assert commit is not None
    assert (submitted.shards, submitted.submission.size) == (8, 4)
    assert host.job(job)["arrayProperties"]["size"] == 4
    assert host.job(commit)["dependsOn"] == [{"jobId": job}]

    # Child 0 has the shards 0 and 4; its host is lost while it is on the second.
    lost = host.start(job, 0, DAWDLE="0.1")
    lost.until(lambda: "shard 4 is begun" in lost.said())
    lost.process.kill()
    assert lost.ended() == -signal.SIGKILL
    assert lost.repeated(None, LOST_HOST)

    # Child 1 has 1 and 5, and child 3 has 3 and 7; both are told to leave. The one is at the beginning of a shard that
    # takes longer than there is time, the other is done with it soon.
    slow = host.start(job, 1, DAWDLE=str(GRACE_SECONDS / 16))
    slow.until(lambda: "shard 1 is begun" in slow.said())
    slow.process.send_signal(signal.SIGTERM)
    quick = host.start(job, 3, DAWDLE="0.1", COUNTED=str(counted))
    quick.until(lambda: counted.exists() and counted.stat().st_size > 1000 / CHUNK * 0.7)
    quick.process.send_signal(signal.SIGTERM)
    # Child 2 (2 and 6) is started twice, and neither knows of the other.
    twice = [host.start(job, 2) for _ in range(2)]
    for one in (slow, quick):
        assert one.ended() == GAVE_UP, one.said()
        assert one.repeated(GAVE_UP)
    for one in twice:
        assert one.ended() == 0, one.said()
    assert sealed(submitted) == {0, 2, 3, 6}, quick.said()

    # Nobody commits what is not there.
    early = host.start(commit)
    assert early.ended() == 1
    assert "4 of 8 shards are not sealed: 1, 4, 5, 7;" in early.said()
    assert not early.repeated(1)
    assert bucket.names("out/") == []

    # The second attempts do what is left, and nothing else; in another order.
    for index, left in ((3, {7}), (0, {4}), (1, {1, 5})):
        again = host.start(job, index, attempt=2)
        assert again.ended() == 0, again.said()
        assert {s for s in range(8) if f"shard {s} is begun" in again.said()} == left
    assert sealed(submitted) == set(range(8))

    last = host.start(commit)
    assert last.ended() == 0, last.said()
    bucket.check_output(tmp_path)
    before = bucket.names("")
    second = host.start(commit, attempt=2)
    assert second.ended() == 0, second.said()
    assert "is committed already" in second.said()
    assert bucket.names("") == before
    late = host.start(job, 2, attempt=3)
    assert late.ended() == 0, late.said()
    assert bucket.names("") == before
