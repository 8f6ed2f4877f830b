"""Dead letters that are asked for in a store, of a run whose output is anywhere."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.batch.support import table, write
from tests.moto_server import Aws
from tidemill.batch import ScoreOptions, score


def test_letters_of_a_local_output_lie_in_a_store(aws: Aws, package: Path, tmp_path: Path) -> None:
    rows = table(100)
    bad = pa.array([-1.0 if i in (7, 50) else v for i, v in enumerate(rows["a"].to_pylist())], pa.float32())
    source = write(rows.set_column(1, "a", bad), tmp_path / "in.parquet")
    place = f"s3://{aws.bucket()}/letters/dead.parquet"
    report = score(package, source, tmp_path / "out.parquet", ScoreOptions(dead_letters=place))
    assert (report.dead, report.dead_letters) == (2, place)
    bucket, _, key = place.removeprefix("s3://").partition("/")
    data = aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    assert pq.read_table(io.BytesIO(data))["_row"].to_pylist() == [7, 50]
