"""Objects as input: every format, prefixes and patterns, the rows of the same files; what changed is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.batch.stores.conftest import Bucket
from tests.batch.stores.proxy import Proxy
from tests.batch.support import OUTPUTS, answers, read_output, table, write
from tidemill.batch import Progress, ScoreOptions, score
from tidemill.batch.stores.inputs import ObjectBlob
from tidemill.errors import ConfigError, SourceError

BOTH = ScoreOptions(pass_through=("id", "label"), chunk_rows=700)


def upload(bucket: Bucket, rows: pa.Table, key: str, tmp_path: Path, group: int = 500) -> None:
    bucket.send(key, write(rows, tmp_path / "local" / Path(key).name, group=group))


@pytest.mark.parametrize("name", ["in.parquet", "in.csv", "in.jsonl", "in.csv.gz", "in.jsonl.zst"])
def test_every_format_gives_the_same_rows(
    package: Path, bucket: Bucket, hurting: Proxy, tmp_path: Path, small_shards: None, name: str
) -> None:
    rows = table(2500)
    upload(bucket, rows, f"some where/{name}", tmp_path)
    hurting.hurt("cut", rf"^GET .*{name}", times=2, skip=1)
    hurting.hurt("drop", rf"^HEAD .*{name}", times=1, skip=1)
    report = score(package, f"{bucket.uri}/some where/{name}", tmp_path / "out", BOTH)
    assert (report.state, report.read, report.written, report.dead) == ("done", 2500, 2500, 0)
    found = read_output(tmp_path / "out")
    assert [int(i) for i in found["id"].to_pylist()] == rows["id"].to_pylist()
    assert found["label"].to_pylist() == rows["label"].to_pylist()
    assert found.select(OUTPUTS).to_pydict() == answers(rows)
    plan = json.loads(Path(report.manifest).read_bytes())["plan"]
    assert plan["root"] == f"{bucket.uri}/some where"
    head = bucket.client.head_object(Bucket=bucket.name, Key=f"some where/{name}")
    assert plan["files"][0]["snapshot"] == {"size": head["ContentLength"], "etag": head["ETag"]}


@pytest.mark.parametrize(
    ("pattern", "days"),
    [
        ("in", [0, 1, 2]),
        ("in/", [0, 1, 2]),
        ("in/day=1", [1]),
        ("in/day=*/part.parquet", [0, 1, 2]),
        ("in/**", [0, 1, 2]),
        ("**/part.parquet", [0, 1, 2]),
        ("in/day=[02]/*", [0, 2]),
        ("in/day=[!0]/p*t.*", [1, 2]),
        ("in/day=2/part.parquet", [2]),
    ],
)
def test_prefixes_and_patterns(package: Path, bucket: Bucket, tmp_path: Path, pattern: str, days: list[int]) -> None:
    for day in (2, 0, 1):
        upload(bucket, table(100, start=100 * day), f"in/day={day}/part.parquet", tmp_path)
    bucket.write("in/_SUCCESS", b"")
    bucket.write("in/day=1/.part.crc", b"x")
    bucket.write("in/day=1/", b"")
    bucket.write("inner/else.parquet", b"no Parquet")
    options = ScoreOptions(pass_through=("id",))
    score(package, f"{bucket.uri}/{pattern}", tmp_path / "out", options)
    assert read_output(tmp_path / "out")["id"].to_pylist() == [i for d in days for i in range(100 * d, 100 * d + 100)]


def test_partitions_are_columns(package: Path, bucket: Bucket, tmp_path: Path) -> None:
    rows = table(200).drop_columns(["c"])
    for i, c in enumerate(("7", "__HIVE_DEFAULT_PARTITION__")):
        upload(bucket, rows.slice(100 * i, 100), f"in/region=eu%2Fwest/c={c}/part.parquet", tmp_path)
    score(package, f"{bucket.uri}/in", tmp_path / "out", ScoreOptions(pass_through=("region", "c", "id")))
    found = read_output(tmp_path / "out").to_pydict()
    assert found["region"] == ["eu/west"] * 200
    assert found["c"] == [7.0] * 100 + [None] * 100


def test_what_is_not_there_or_not_understood(package: Path, bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("mixed/a.parquet", b"x")
    bucket.write("mixed/b.csv", b"x")
    bucket.write("strange/a.xlsx", b"x")
    for source, told in {
        "nothing": "no object of this name, and none below it",
        "mixed/*.jsonl": "no object of this name",
        "mixed": "holds both a.parquet and b.csv",
        "strange": "a.xlsx: not known by its suffix",
        "mixed/a.parquet": "a.parquet: not a readable Parquet file",
        "": "not known by its suffix|holds both",
    }.items():
        with pytest.raises(SourceError, match=told):
            score(package, f"{bucket.uri}/{source}", tmp_path / "out")
    with pytest.raises(ConfigError, match="knows no option 'colour'"):
        score(package, f"{bucket.uri}/mixed?colour=red", tmp_path / "out")
    with pytest.raises(ConfigError, match="a store is expected as SCHEME://BUCKET/NAME"):
        score(package, "s3://b*/x", tmp_path / "out")
    with pytest.raises(SourceError, match="there is no such bucket"):
        score(package, "s3://no-such-bucket-here/x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def replaced(bucket: Bucket, tmp_path: Path) -> None:
    upload(bucket, table(2000, start=1), "in/b.parquet", tmp_path)


def removed(bucket: Bucket, tmp_path: Path) -> None:
    bucket.client.delete_object(Bucket=bucket.name, Key="in/b.parquet")


REFUSED = (
    r"b\.parquet: (was changed after the run was planned|was changed or removed while it was read"
    r"|is being written to|is gone|not a readable|cannot be read)"
)


@pytest.mark.parametrize("change", [replaced, removed])
def test_an_object_that_changes_at_any_moment_is_never_mixed(
    package: Path,
    bucket: Bucket,
    hurting: Proxy,
    tmp_path: Path,
    small_shards: None,
    change: Callable[[Bucket, Path], None],
) -> None:
    """Just before each request for it: the run ends in a refusal, or it had read all that it needed."""
    options = ScoreOptions(workers=1, pass_through=("id",))
    upload(bucket, table(1000), "in/a.parquet", tmp_path)
    upload(bucket, table(2000), "in/b.parquet", tmp_path)
    score(package, f"{bucket.uri}/in", tmp_path / "clean", options)
    moments = sum("b.parquet" in line for line in hurting.seen)
    assert moments > 8
    ends = []
    for moment in range(0, moments, 1 if os.environ.get("TIDEMILL_SWEEP") == "all" else 3):
        upload(bucket, table(2000), "in/b.parquet", tmp_path)
        hurting.hurts[:] = []
        hurting.hurt("call before", r"b\.parquet", skip=moment, call=lambda: change(bucket, tmp_path))
        out = tmp_path / f"out{moment}"
        try:
            score(package, f"{bucket.uri}/in", out, options)
        except SourceError as error:
            ends.append(str(error))
            assert not out.exists()
        else:
            # Changed before it was first looked at, the other one is the input.
            assert moment == 0
            assert read_output(out)["id"].to_pylist() == [*range(1000), *range(1, 2001)]
    assert len(ends) > 2
    assert [e for e in ends if not re.search(REFUSED, e)] == []


def test_an_object_replaced_between_crash_and_resume_is_refused(
    package: Path, bucket: Bucket, tmp_path: Path, small_shards: None
) -> None:
    for name in "ab":
        upload(bucket, table(2000), f"in/{name}.parquet", tmp_path)
    options = ScoreOptions(run_id="r1", workers=1)

    def stop(progress: Progress) -> None:
        if progress.shards_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(package, f"{bucket.uri}/in", tmp_path / "out", options, stop)
    replaced(bucket, tmp_path)
    with pytest.raises(Exception, match=r"run r1 cannot go on: input file b\.parquet was changed"):
        score(package, f"{bucket.uri}/in", tmp_path / "out", options)
    upload(bucket, table(2000), "in/b.parquet", tmp_path)
    report = score(package, f"{bucket.uri}/in", tmp_path / "out", options)
    assert (report.state, report.read) == ("done", 4000)
    assert report.resumed_shards > 0


def test_a_file_is_told_by_its_bytes(bucket: Bucket) -> None:
    bucket.write("x/a", b"12345")
    blob = ObjectBlob(f"{bucket.uri}/x", "a")
    first = blob.snapshot()
    bucket.write("x/a", b"12345")
    assert blob.snapshot() == first
    bucket.write("x/a", b"12346")
    assert blob.snapshot() != first
    with blob.open() as file:
        assert file.read() == b"12346"
