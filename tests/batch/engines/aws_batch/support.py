"""What the tests of AWS Batch share: a bucket with an input, a package that can be slow, a job, and its submission."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tests.batch.engines.aws_batch.host import PATIENCE
from tests.batch.support import answers, table
from tests.moto_server import Aws
from tidemill.batch.engines.aws_batch.options import AwsBatchOptions
from tidemill.batch.engines.aws_batch.submit import Submitted
from tidemill.batch.engines.options import EngineOptions
from tidemill.batch.job import Job
from tidemill.batch.options import ScoreOptions
from tidemill.batch.stage import open_stage

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


Giving = Callable[..., Submitted]


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


def until(what: Callable[[], bool]) -> None:
    """Wait for something to come about."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
