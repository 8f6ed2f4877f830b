"""Delta tables in a store: the same source and target, over moto's server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import msgspec
import polars as pl
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from tests.batch.lake.delta_logs import delete_rows
from tests.batch.stores.conftest import Bucket
from tests.batch.stores.proxy import Kind, Proxy, proxy
from tests.batch.support import OUTPUTS, answers, child, table, write
from tests.moto_server import Aws, aws
from tidemill.batch import ScoreOptions, score
from tidemill.batch.places import Mode
from tidemill.errors import SinkError, SourceError

__all__ = ["aws"]


@pytest.fixture
def bucket(aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.chdir(tmp_path)
    return Bucket(aws.bucket(), aws.client("s3"))


def stored(bucket: Bucket, prefix: str) -> pl.DataFrame:
    """The newest version of a table, by replaying its log."""
    files: dict[str, None] = {}
    for log in sorted(n for n in bucket.names(f"{prefix}/_delta_log/") if n.endswith(".json")):
        for action in map(json.loads, bucket.read(log).splitlines()):
            if "add" in action:
                files[unquote(action["add"]["path"])] = None
            if "remove" in action:
                files.pop(unquote(action["remove"]["path"]), None)
    return pl.concat([pl.read_parquet(bucket.read(f"{prefix}/{f}")) for f in files]).sort("id")


def test_a_version_in_a_store_is_read_in_place(package: Path, bucket: Bucket, tmp_path: Path) -> None:
    for i in range(2):
        write_deltalake(tmp_path / "t", table(300, start=300 * i), mode="append")
    for path in (tmp_path / "t").rglob("*.*"):
        if path.is_file():
            bucket.send(f"lake/{path.relative_to(tmp_path)}", path)
    report = score(
        package, f"delta:{bucket.uri}/lake/t?version=1", tmp_path / "out", ScoreOptions(pass_through=("id",))
    )
    plan = json.loads(Path(report.manifest).read_bytes())["plan"]
    assert (plan["root"], plan["origin"]["read"]["version"]) == (f"{bucket.uri}/lake/t", "1")
    found = pl.read_parquet(tmp_path / "out" / "*.parquet").sort("id")
    assert {n: found[n].to_list() for n in OUTPUTS} == answers(table(600))


def test_deletion_vectors_in_a_store(package: Path, bucket: Bucket, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", table(100))
    delete_rows(tmp_path / "t", [0, 99])
    for path in (tmp_path / "t").rglob("*.*"):
        if path.is_file():
            bucket.send(str(path.relative_to(tmp_path)), path)
    score(package, f"delta:{bucket.uri}/t", tmp_path / "out", ScoreOptions(pass_through=("id",)))
    assert sorted(pl.read_parquet(tmp_path / "out" / "*.parquet")["id"]) == list(range(1, 99))


@pytest.mark.parametrize("mode", ["create", "overwrite", "append", "upsert"])
def test_a_table_in_a_store_is_written(package: Path, bucket: Bucket, tmp_path: Path, mode: Mode) -> None:
    rows = table(600)
    rows = rows.set_column(1, "a", pc.if_else(pc.less(rows["id"], 3), -1.0, rows["a"]))
    source, sink = write(rows, tmp_path / "in.parquet"), f"delta:{bucket.uri}/lake/t"
    if mode != "create":
        score(package, write(table(900, start=500), tmp_path / "old.parquet"), sink, ScoreOptions(pass_through=("id",)))
    key = ("id",) if mode == "upsert" else ()
    options = ScoreOptions(run_id="r1", pass_through=("id",), mode=mode, key=key)
    report = score(package, source, sink, options)
    assert (report.written, report.dead) == (597, 3)
    old = {"create": [], "overwrite": [], "append": range(500, 1400), "upsert": range(600, 1400)}[mode]
    found = stored(bucket, "lake/t")
    assert Counter(found["id"]) == Counter([*range(3, 600), *old])
    assert (
        DeltaTable(f"{bucket.uri}/lake/t", storage_options={"AWS_ALLOW_HTTP": "true"}).transaction_version("r1")
        is not None
    )
    assert json.loads(bucket.read("lake/t/_tidemill/r1.manifest.json"))["run_id"] == "r1"
    assert report.dead_letters == f"{bucket.uri}/lake/t/_tidemill/r1.dead.parquet"
    assert pl.read_parquet(bucket.read("lake/t/_tidemill/r1.dead.parquet"))["id"].to_list() == [0, 1, 2]
    assert score(package, source, sink, options).state == "already_done"
    assert not list((tmp_path / "tidemill-runs").glob("*"))


# argv: package, source, sink, options as JSON
RUN = """
import sys
import msgspec
from tidemill.batch import ScoreOptions, score
from tidemill.errors import SinkError
try:
    print(score(*sys.argv[1:4], msgspec.json.decode(sys.argv[4], type=ScoreOptions)).state)
except SinkError as error:
    print("SinkError:", error)
"""


def scored_apart(package: Path, source: Path, sink: str, options: ScoreOptions) -> str:
    """The end of a run in a process of its own: deltalake waits for replies without letting this one's threads run."""
    process = child(RUN, package, source, sink, msgspec.json.encode(options).decode())
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out.splitlines()[-1]


@pytest.fixture
def hurting(aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(aws.endpoint) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("create", "drop"),
        ("create", "status"),
        ("append", "late status"),
        ("append", "vanish"),
        ("overwrite", "drop"),
        ("upsert", "drop"),
    ],
)
def test_a_commit_whose_answer_is_lost_is_settled(
    package: Path,
    aws: Aws,
    bucket: Bucket,
    hurting: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    kind: Kind,
) -> None:
    """The work was done or not: either way the run is in the table once, whether this execution or a resume says so."""
    source, sink = write(table(300), tmp_path / "in.parquet"), f"delta:{bucket.uri}/t"
    if mode != "create":
        old = write(table(100, start=900), tmp_path / "old.parquet")
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", aws.endpoint)
            score(package, old, sink, ScoreOptions(pass_through=("id",)))
    options = ScoreOptions(
        run_id="r1", pass_through=("id",), mode=mode, key=("id",) if mode == "upsert" else (), workers=1
    )
    hurt = hurting.hurt(kind, r"^PUT .*/_delta_log/\d+\.json", status=503)
    told = scored_apart(package, source, sink, options)
    if told.startswith("SinkError"):
        told = scored_apart(package, source, sink, options)
    assert hurt.met > 0
    assert told in ("done", "already_done")
    assert Counter(stored(bucket, "t")["id"]) == Counter(
        [*range(300), *(range(900, 1000) if mode in ("append", "upsert") else [])]
    )
    logs = [bucket.read(n).decode() for n in bucket.names("t/_delta_log/") if n.endswith(".json")]
    assert sum('"appId":"r1"' in log for log in logs) == 1
    assert json.loads(bucket.read("t/_tidemill/r1.manifest.json"))["run_id"] == "r1"


def test_a_store_that_ignores_conditions_is_refused(
    package: Path, bucket: Bucket, hurting: Proxy, tmp_path: Path
) -> None:
    hurting.hurt("unconditional", "^PUT", times=100)
    told = scored_apart(package, write(table(10), tmp_path / "in.parquet"), f"delta:{bucket.uri}/t", ScoreOptions())
    assert "this store ignores conditions" in told
    assert bucket.names("t/_delta_log") == []


def test_a_store_that_is_not_there_is_one_line(
    package: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(table(10), tmp_path / "in.parquet")
    with pytest.raises(SinkError, match=r"^delta:s3://no-such-bucket/t") as caught:
        score(package, source, "delta:s3://no-such-bucket/t")
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match=r"delta:s3://no-such-bucket/t: "):
        score(package, "delta:s3://no-such-bucket/t", tmp_path / "out")
