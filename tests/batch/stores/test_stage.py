"""A stage in a store: kept as on disk, by drivers and workers of several machines; what was damaged is scored again."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import msgspec
import polars as pl
import pytest

from tests.batch.stores.conftest import Bucket
from tests.batch.stores.proxy import Proxy
from tests.batch.support import answers, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.ledger import PartFile, PieceCount, Sealed
from tidemill.batch.stage import open_stage
from tidemill.batch.stores.objects import Objects
from tidemill.batch.stores.stage import ObjectStage
from tidemill.errors import ConfigError, RunError, SinkError


def marker(shard: int, name: str) -> Sealed:
    part = PartFile(name=name, rows=1, bytes=3, sha256="")
    return Sealed(format=1, shard=shard, pieces=(PieceCount(file=0, read=1, dead=0),), errors={}, part=part, dead=None)


def test_a_stage_is_opened_where_it_lies(bucket: Bucket, tmp_path: Path) -> None:
    stage = open_stage(f"{bucket.uri}/runs/r1/")
    assert isinstance(stage, ObjectStage)
    assert stage.where == f"{bucket.uri}/runs/r1"
    assert stage.get("plan.json") is None
    stage.put("plan.json", b"{}")
    (tmp_path / "part").write_bytes(b"abc")
    stage.keep("parts", tmp_path / "part", "part-00000-a.parquet")
    assert not (tmp_path / "part").exists()
    other = open_stage(stage.where)
    assert other.get("plan.json") == b"{}"
    assert other.fetch("parts", "part-00000-a.parquet").read_bytes() == b"abc"
    assert bucket.names() == ["runs/r1/parts/part-00000-a.parquet", "runs/r1/plan.json"]
    other.remove()
    assert bucket.names() == []


@pytest.mark.parametrize("kind", ["store", "directory"])
def test_notes_are_read_as_they_stand_and_go_with_the_stage(bucket: Bucket, tmp_path: Path, kind: str) -> None:
    where = f"{bucket.uri}/r1" if kind == "store" else str(tmp_path / "stage")
    stage = open_stage(where)
    with stage.held():
        stage.put("plan.json", b"{}")
        other = open_stage(where)
        assert stage.notes("some") == {}
        other.note("some/one", b"1")
        other.note("some/two", b"2")
        other.note("others/one", b"3")
        assert stage.notes("some") == {"one": b"1", "two": b"2"}
        other.note("some/one", b"11")
        assert stage.notes("some") == {"one": b"11", "two": b"2"}
        stage.remove()
    if kind == "store":
        assert bucket.names() == []
    else:
        # A worker that has not heard of the end yet brings nothing back.
        other.note("some/one", b"4")
        assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize("inside", ["thesis.txt", "parts/mine.parquet"])
@pytest.mark.parametrize("below", ["", "/data"])
def test_a_prefix_of_somebody_elses_is_no_stage(
    bucket: Bucket, package: Path, tmp_path: Path, inside: str, below: str
) -> None:
    """Else its end, be it success or failure, would take away the whole bucket."""
    bucket.write(f"{below}/{inside}".strip("/"), b"years of work")
    write(table(10), tmp_path / "in.parquet")
    for source in ("in.parquet", "nothing.parquet"):
        options = ScoreOptions(stage=f"{bucket.uri}{below}", run_id="r1")
        with pytest.raises(ConfigError, match=r"is no stage of a run: .*choose an empty directory"):
            score(package, tmp_path / source, f"{bucket.uri}/out/", options)
        assert bucket.names() == [f"{below}/{inside}".strip("/")]


def test_what_somebody_put_into_a_stage_stays_there(bucket: Bucket) -> None:
    stage = open_stage(f"{bucket.uri}/r1")
    stage.put("plan.json", b"{}")
    bucket.write("r1/notes.txt", b"to be kept")
    stage.remove()
    assert bucket.names() == ["r1/notes.txt"]


def test_of_many_attempts_one_marker_counts(bucket: Bucket, hurting: Proxy) -> None:
    hurting.hurt("drop", "^PUT .*00003", times=2)
    hurting.hurt("status", "^PUT .*00003", times=3, status=409)
    stages = [open_stage(f"{bucket.uri}/r1") for _ in range(6)]
    got: list[Sealed] = []
    threads = [
        threading.Thread(target=lambda s=s, i=i: got.append(s.mark(marker(3, f"part-{i}.parquet"))))  # type: ignore[misc]
        for i, s in enumerate(stages)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert len({g.part.name for g in got}) == 1
    kept = msgspec.json.decode(bucket.read("r1/shards/00003.json"), type=Sealed)
    assert kept == got[0]


def test_a_marker_nobody_can_read_gives_way(bucket: Bucket) -> None:
    bucket.write("r1/shards/00003.json", b'{"format": 1, "sha')
    mine = marker(3, "part-1.parquet")
    assert open_stage(f"{bucket.uri}/r1").mark(mine) == mine


def test_bytes_that_are_not_those_that_were_kept(bucket: Bucket, tmp_path: Path) -> None:
    stage = open_stage(f"{bucket.uri}/r1")
    for name in "ab":
        (tmp_path / name).write_bytes(b"abc")
        stage.keep("parts", tmp_path / name, f"{name}.parquet")
        stage.mark(marker(ord(name), f"{name}.parquet"))
    bucket.client.put_object(Bucket=bucket.name, Key="r1/parts/a.parquet", Body=b"abd", Metadata={"sha256": "x"})
    with pytest.raises(RunError, match=r"parts/a\.parquet: is gone, or not what was written there; .*resume the run"):
        stage.fetch("parts", "a.parquet")
    bucket.client.delete_object(Bucket=bucket.name, Key="r1/parts/b.parquet")
    with pytest.raises(RunError, match=r"parts/b\.parquet: is gone"):
        stage.fetch("parts", "b.parquet")
    assert bucket.names("r1/shards") == []


def test_the_store_copies_only_what_was_kept(bucket: Bucket, tmp_path: Path) -> None:
    stage, out = ObjectStage(f"{bucket.uri}/r1"), Objects(f"{bucket.uri}/out")
    (tmp_path / "a").write_bytes(b"abc")
    stage.keep("parts", tmp_path / "a", "a.parquet")
    digest = hashlib.sha256(b"abc").hexdigest()
    part = PartFile(name="a.parquet", rows=1, bytes=3, sha256=digest)
    stage.copy("parts", part, out, "b.parquet")
    assert bucket.read("out/b.parquet") == b"abc"
    with pytest.raises(RunError, match=r"parts/a\.parquet: is gone, or not what was written there"):
        stage.copy("parts", msgspec.structs.replace(part, sha256="other"), out, "c.parquet")
    assert bucket.names("out") == ["out/b.parquet"]


def test_parts_are_counted_side_by_side(package: Path, bucket: Bucket, hurting: Proxy, tmp_path: Path) -> None:
    """One after the other, the first would wait for the fourth for ever."""
    source = write(table(4000), tmp_path / "a.parquet", group=1000)
    options = ScoreOptions(run_id="r1", stage=f"{bucket.uri}/stage/r1", workers=1, pass_through=("id",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)
        denied = hurting.hurt("status", r"^PUT .*_tidemill/manifest\.json", times=1000, status=403)
        with pytest.raises(SinkError):
            score(package, source, f"{bucket.uri}/out", options)
        denied.times = 0
        together = threading.Barrier(4)
        hurting.hurt("call before", r"^HEAD .*/stage/r1/parts/", times=4, call=lambda: together.wait(60))
        assert score(package, source, f"{bucket.uri}/out", options).resumed_shards == 4
    assert not together.broken


def damage_none(bucket: Bucket, key: str) -> None:
    pass


def damage_cut(bucket: Bucket, key: str) -> None:
    bucket.write(key, bucket.read(key)[:-7])


def damage_scrambled(bucket: Bucket, key: str) -> None:
    bucket.write(key, os.urandom(len(bucket.read(key))))


def damage_gone(bucket: Bucket, key: str) -> None:
    bucket.client.delete_object(Bucket=bucket.name, Key=key)


@pytest.mark.parametrize(
    ("sink", "where", "damage"),
    [
        ("out", "parts", damage_none),
        ("out", "parts", damage_cut),
        ("out", "parts", damage_scrambled),
        ("out", "parts", damage_gone),
        ("out", "shards", damage_scrambled),
        ("out", "shards", damage_gone),
        ("out.parquet", "parts", damage_none),
        ("out.parquet", "parts", damage_scrambled),
    ],
)
def test_a_run_over_a_stage_that_was_damaged(
    package: Path,
    bucket: Bucket,
    hurting: Proxy,
    tmp_path: Path,
    small_shards: None,
    sink: str,
    where: str,
    damage: Callable[[Bucket, str], None],
) -> None:
    """It ends whole, having scored again what was damaged and nothing else."""
    rows = table(5000)
    bucket.send("in/a.parquet", write(rows, tmp_path / "a.parquet", group=500))
    options = ScoreOptions(run_id="r1", stage=f"{bucket.uri}/stage/r1", workers=1, pass_through=("id",))

    denied = hurting.hurt("status", r"^PUT .*/shards/00003\.json", status=403)
    with pytest.raises(SinkError, match=r"shards/00003\.json cannot be written: the credentials .* do not allow it"):
        score(package, f"{bucket.uri}/in", f"{bucket.uri}/{sink}", options)
    assert denied.met == 1
    kept = bucket.names(f"stage/r1/{where}/")
    assert len(kept) >= 3
    damage(bucket, kept[1])
    try:
        report = score(package, f"{bucket.uri}/in", f"{bucket.uri}/{sink}", options)
    except RunError as error:
        # Bytes of the right number are found out when they are fetched.
        assert "its shard is no longer sealed; resume the run" in str(error)  # noqa: PT017
        assert damage is damage_scrambled
        report = score(package, f"{bucket.uri}/in", f"{bucket.uri}/{sink}", options)
    assert (report.state, report.read, report.written) == ("done", 5000, 5000)
    assert report.resumed_shards >= 2
    assert bucket.names("stage") == []
    keys = [k for k in bucket.names("out") if "_tidemill" not in k and not k.endswith("json")]
    found = pl.concat([pl.read_parquet(bucket.read(k)) for k in sorted(keys)])
    assert found["id"].to_list() == list(range(5000))
    assert found["score"].to_list() == answers(rows)["score"]


def test_a_copy_of_a_database_is_shared_by_the_stage(
    package: Path, bucket: Bucket, hurting: Proxy, tmp_path: Path, small_shards: None
) -> None:
    """It is read once, lies where every worker finds it, and is what a resume goes on with."""
    write(table(3000), tmp_path / "a.parquet")
    with duckdb.connect(str(tmp_path / "in.duckdb")) as connection:
        connection.execute(f"create table t as from '{tmp_path}/a.parquet'")
    options = ScoreOptions(run_id="r1", stage=f"{bucket.uri}/stage", workers=1, pass_through=("id",))
    source = f"duckdb:{tmp_path}/in.duckdb?table=t"
    hurting.hurt("status", r"^PUT .*/shards/00000\.json", status=403)
    with pytest.raises(SinkError, match="do not allow it"):
        score(package, source, tmp_path / "out.parquet", options)
    plan = json.loads(bucket.read("stage/plan.json"))
    assert plan["root"] == f"{bucket.uri}/stage/spool"
    assert [f["name"] for f in plan["files"]] == [n.removeprefix("stage/spool/") for n in bucket.names("stage/spool/0")]
    (tmp_path / "in.duckdb").unlink()
    report = score(package, source, tmp_path / "out.parquet", options)
    assert (report.state, report.read) == ("done", 3000)
    assert sorted(pl.read_parquet(tmp_path / "out.parquet")["id"].to_list()) == list(range(3000))
    assert bucket.names() == []
