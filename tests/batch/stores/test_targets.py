"""A store as the output: the same rows in every form, one of two runs wins, and readers see the old or the new."""

from __future__ import annotations

import io
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.batch.stores.conftest import Bucket
from tests.batch.stores.proxy import Proxy
from tests.batch.support import OUTPUTS, answers, table, write
from tidemill.batch import RunReport, ScoreOptions, score
from tidemill.batch.job import Job
from tidemill.batch.jobs.conduct import run_job
from tidemill.batch.jobs.gate import Gate
from tidemill.batch.jobs.index import RunIndex
from tidemill.batch.jobs.recall import recall
from tidemill.batch.manifest import RunManifest
from tidemill.batch.retry import dead_letters_of
from tidemill.batch.stores.left import abandoned_objects, remove_objects
from tidemill.errors import ConfigError, Held, NotFound, RunError, SinkError, SourceError

SINKS = ["out", "out/", "deep/down/out", "out.parquet", "out.csv", "out.jsonl", "a b/ü.parquet"]
ROWS = 3000


def rows(*, start: int = 0) -> pa.Table:
    """A bad row in each 1024."""
    found = table(ROWS, start=start)
    bad = pc.equal(pc.bit_wise_and(found["id"], 1023), 7)
    return found.set_column(1, "a", pc.if_else(bad, -1.0, found["a"]))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(rows(), tmp_path / "in.parquet", group=500)


def read(bucket: Bucket, sink: str) -> pl.DataFrame:
    """By the manifest, with a tool that shares no code with what wrote it."""
    if sink.endswith(("csv", "jsonl")):
        data = io.BytesIO(bucket.read(sink))
        return pl.read_csv(data) if sink.endswith("csv") else pl.read_ndjson(data)
    if sink.endswith("parquet"):
        return pl.read_parquet(bucket.read(sink))
    prefix = sink.rstrip("/")
    parts = json.loads(bucket.read(f"{prefix}/_tidemill/manifest.json"))["parts"]
    return pl.concat([pl.read_parquet(bucket.read(f"{prefix}/{p['name']}")) for p in parts])


def letters(bucket: Bucket, report: RunReport) -> pl.DataFrame:
    assert report.dead_letters is not None
    prefix = report.dead_letters.removeprefix(f"{bucket.uri}/")
    return pl.concat([pl.read_parquet(bucket.read(k)) for k in bucket.names(prefix)])


@pytest.mark.parametrize("sink", SINKS)
def test_every_form_holds_the_same_rows(
    package: Path, bucket: Bucket, source: Path, small_shards: None, sink: str
) -> None:
    options = ScoreOptions(run_id="r1", pass_through=("id", "label"), chunk_rows=300)
    report = score(package, source, f"{bucket.uri}/{sink}", options)
    assert (report.state, report.read, report.written, report.dead) == ("done", ROWS, ROWS - 3, 3)
    found = read(bucket, sink)
    good = rows().filter(pc.greater_equal(rows()["a"], 0))
    assert found["id"].to_list() == good["id"].to_pylist()
    assert found["label"].to_list() == good["label"].to_pylist()
    expected = answers(good)
    assert found["score"].to_list() == expected["score"]
    if not sink.endswith("csv"):
        assert found.columns == ["id", "label", *OUTPUTS]
        assert found["pair"].to_list() == expected["pair"]
    dead = letters(bucket, report)
    assert (dead["_row"].to_list(), dead["_code"].to_list()) == ([7, 1031, 2055], ["below_minimum"] * 3)
    manifest = json.loads(bucket.read(report.manifest.removeprefix(f"{bucket.uri}/")))
    assert (manifest["run_id"], manifest["read"], manifest["dead_letters"]) == ("r1", ROWS, report.dead_letters)
    for part in manifest["parts"]:
        key = sink if part["name"] == Path(sink).name else f"{sink.rstrip('/')}/{part['name']}"
        assert bucket.client.head_object(Bucket=bucket.name, Key=key)["ContentLength"] == part["bytes"]
    # Nothing else is left: neither here nor there.
    dead_names = bucket.names(report.dead_letters.removeprefix(f"{bucket.uri}/"))
    assert len(bucket.names()) == 1 + len(manifest["parts"]) + len(dead_names)
    assert not list(Path("tidemill-runs").glob("*/*"))
    again = score(package, source, f"{bucket.uri}/{sink}", options)
    assert (again.state, again.read, again.dead_letters) == ("already_done", ROWS, report.dead_letters)


@pytest.mark.parametrize("sink", ["out", "out.parquet", "out.csv"])
def test_create_and_overwrite(package: Path, bucket: Bucket, source: Path, tmp_path: Path, sink: str) -> None:
    uri = f"{bucket.uri}/{sink}"
    assert score(package, source, uri, ScoreOptions(run_id="r1", pass_through=("id",))).dead == 3
    with pytest.raises(RunError, match=r"exists|holds the output of another run"):
        score(package, source, uri, ScoreOptions(run_id="r2", pass_through=("id",)))
    other = write(table(50, start=10_000), tmp_path / "other.parquet")
    replace = ScoreOptions(run_id="r2", pass_through=("id",), mode="overwrite")
    assert score(package, other, uri, replace).state == "done"
    assert read(bucket, sink)["id"].to_list() == list(range(10_000, 10_050))
    assert score(package, other, uri, replace).state == "already_done"
    with pytest.raises(RunError, match=r"exists|holds the output of another run"):
        score(package, source, uri, ScoreOptions(run_id="r1", pass_through=("id",)))
    assert read(bucket, sink)["id"].to_list() == list(range(10_000, 10_050))


def test_the_output_that_was_replaced_stays_for_its_readers_until_the_next_commit(
    package: Path, bucket: Bucket, source: Path, small_shards: None
) -> None:
    uri, generations = f"{bucket.uri}/out", []
    for i in range(3):
        before = set(bucket.names())
        score(package, source, uri, ScoreOptions(run_id=f"r{i}", mode="overwrite" if i else "create"))
        generations.append({n for n in bucket.names() if f"r{i}-" in n})
        assert len(generations[i]) > 3  # parts and dead letters
        assert set(bucket.names()) == {"out/_tidemill/manifest.json"}.union(*generations[-2:])
        assert before <= set(bucket.names()) or i == 2
    # They were written as long ago as they like: their age begins when they were replaced.
    now = datetime.now(UTC)
    assert abandoned_objects(uri, timedelta(hours=1), now) == []
    found = abandoned_objects(uri, timedelta(hours=1), now + timedelta(hours=2))
    assert {f"out/{f.entry.name}" for f in found} == generations[1]
    remove_objects(found)
    assert len(read(bucket, "out")) == ROWS - 3


@pytest.mark.parametrize("sink", ["out", "out.csv"])
def test_its_run_is_taken_up_into_the_index(package: Path, bucket: Bucket, source: Path, sink: str) -> None:
    report = score(package, source, f"{bucket.uri}/{sink}", ScoreOptions(run_id="r1"))
    for place in (f"{bucket.uri}/{sink}", report.manifest):
        record = recall(place)
        assert (record.run_id, record.state, record.read, record.manifest) == ("r1", "done", ROWS, report.manifest)
    with pytest.raises(NotFound, match="neither an output with a manifest"):
        recall(f"{bucket.uri}/nothing")


def test_an_object_that_is_replaced_takes_its_letters_along(
    package: Path, bucket: Bucket, source: Path, tmp_path: Path
) -> None:
    uri = f"{bucket.uri}/out.parquet"
    score(package, source, uri, ScoreOptions(run_id="r1"))
    score(package, source, uri, ScoreOptions(run_id="r2", mode="overwrite"))
    assert [k for k in bucket.names() if "r1-" in k] == []


def test_the_output_of_a_run_is_an_input_as_its_manifest_says(
    package: Path, bucket: Bucket, source: Path, tmp_path: Path, small_shards: None
) -> None:
    score(
        package,
        source,
        f"{bucket.uri}/out",
        ScoreOptions(run_id="r1", pass_through=("id", "a", "b", "c"), select=("score",)),
    )
    bucket.send("out/part-00009-r0-0123abcd.parquet", write(table(5), tmp_path / "left.parquet"))
    report = score(package, f"{bucket.uri}/out", tmp_path / "again", ScoreOptions(pass_through=("id",)))
    assert report.read == ROWS - 3
    plan = json.loads(Path(report.manifest).read_bytes())["plan"]
    assert plan["origin"] == {"kind": "files", "uri": f"{bucket.uri}/out", "read": {"run": "r1"}}
    bucket.write("out/_tidemill/manifest.json", b"{")
    with pytest.raises(RunError, match=r"manifest\.json: cannot be understood"):
        score(package, f"{bucket.uri}/out", tmp_path / "more")


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_its_dead_letters_are_an_input(
    package: Path, bucket: Bucket, source: Path, tmp_path: Path, small_shards: None, sink: str
) -> None:
    report = score(package, source, f"{bucket.uri}/{sink}", ScoreOptions(run_id="r1", pass_through=("id",)))
    for place in (f"{bucket.uri}/{sink}", report.manifest):
        where, options = dead_letters_of(place, ScoreOptions(run_id="r2", pass_through=("id",)))
        assert where == report.dead_letters
    again = score(package, where, tmp_path / "again", options)
    assert (again.read, again.dead) == (3, 3)
    with pytest.raises(SourceError, match="is not the output of a run"):
        dead_letters_of(f"{bucket.uri}/nothing", ScoreOptions())


def test_what_is_not_ours_is_left_alone(package: Path, bucket: Bucket, source: Path) -> None:
    bucket.write("out/notes.txt", b"mine")
    for mode in ("create", "overwrite"):
        with pytest.raises(RunError, match=r"out: is not an output of Tidemill \(it holds notes\.txt"):
            score(package, source, f"{bucket.uri}/out", ScoreOptions(mode=mode))  # type: ignore[arg-type]
    bucket.write("other/_tidemill/manifest.json", b"not ours")
    with pytest.raises(RunError, match="cannot be understood; it is left alone"):
        score(package, source, f"{bucket.uri}/other", ScoreOptions(mode="overwrite"))
    assert bucket.names() == ["other/_tidemill/manifest.json", "out/notes.txt"]
    # Beside an output of ours, it stays.
    bucket.client.delete_object(Bucket=bucket.name, Key="out/notes.txt")
    score(package, source, f"{bucket.uri}/out", ScoreOptions(run_id="r1"))
    bucket.write("out/notes.txt", b"mine")
    score(package, source, f"{bucket.uri}/out", ScoreOptions(run_id="r2", mode="overwrite"))
    assert "out/notes.txt" in bucket.names()


def test_what_cannot_be_is_refused_before_anything_is_read(package: Path, bucket: Bucket, hurting: Proxy) -> None:
    for sink, told in {
        "out?colour=red": "knows no option 'colour'",
        "out.csv.gz": "compressed output is not written",
    }.items():
        with pytest.raises(ConfigError, match=told):
            score(package, "nothing.parquet", f"{bucket.uri}/{sink}")
    with pytest.raises(ConfigError, match="objects are created or overwritten as a whole, got mode append"):
        score(package, "nothing.parquet", f"{bucket.uri}/out", ScoreOptions(mode="append"))
    with pytest.raises(SinkError, match="there is no such bucket"):
        score(package, "nothing.parquet", "s3://no-such-bucket-here/out")
    hurting.hurt("unconditional", "^PUT", times=100)
    for sink in ("out", "out.parquet"):
        with pytest.raises(SinkError, match="this store ignores conditions"):
            score(package, "nothing.parquet", f"{bucket.uri}/{sink}")
    assert bucket.names() == []


def test_an_output_that_is_or_holds_or_joins_the_input_is_refused(package: Path, bucket: Bucket, source: Path) -> None:
    score(package, source, f"{bucket.uri}/lake/in", ScoreOptions(run_id="r1", pass_through=("id", "a", "b", "c")))
    bucket.send("lake/x.parquet", source)
    before = bucket.names()
    for read_, sink, told in [
        ("lake/in", "lake/in", "holds the input"),
        ("lake/in/", "lake/in", "holds the input"),
        ("lake/in", "lake/in/out", "lies inside the input"),
        ("lake", "lake/out.parquet", "lies inside the input"),
        ("", "out", "lies inside the input"),
        ("lake/x.parquet", "lake/x.parquet", "holds the input"),
        ("lake/x*", "lake/x.parquet", "holds the input x.parquet"),
        ("lake/in/*.parquet", "lake/in", "holds the input part-00000"),
    ]:
        with pytest.raises(ConfigError, match=f"output s3://.*: {told}"):
            score(package, f"{bucket.uri}/{read_}", f"{bucket.uri}/{sink}", ScoreOptions(mode="overwrite"))
    assert bucket.names() == before


def overtaking(
    package: Path, bucket: Bucket, hurting: Proxy, commit: str, first: tuple[Any, ...], second: tuple[Any, ...]
) -> tuple[RunReport | RunError, RunReport]:
    """What comes of a run that is stopped just before its commit, while another goes all the way, and then goes on."""
    stopped, go = threading.Event(), threading.Event()
    ends: list[RunReport | RunError] = []

    def stop() -> None:
        stopped.set()
        assert go.wait(30)

    def drive() -> None:
        try:
            ends.append(score(package, *first))
        except RunError as error:
            ends.append(error)

    hurting.hurt("call before", commit, call=stop)
    driver = threading.Thread(target=drive)
    driver.start()
    try:
        assert stopped.wait(30)
        report = score(package, *second)
    finally:
        go.set()
        driver.join()
    return ends[0], report


COMMITS = {"out": r"^PUT .*_tidemill/manifest\.json", "out.csv": r"^PUT .*/out\.csv(\?|$)"}


@pytest.mark.parametrize("sink", COMMITS)
@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_a_driver_that_was_overtaken_by_another_of_its_run_changes_nothing(
    package: Path, bucket: Bucket, hurting: Proxy, source: Path, small_shards: None, sink: str, mode: Any
) -> None:
    uri = f"{bucket.uri}/{sink}"
    if mode == "overwrite":
        score(
            package,
            write(table(10), source.parent / "old.parquet"),
            uri,
            ScoreOptions(run_id="r0", pass_through=("id",)),
        )
    # Each on a machine of its own: no lock of a directory is between them.
    one, two = (
        ScoreOptions(run_id="r1", pass_through=("id",), mode=mode, stage=str(source.parent / name)) for name in "ab"
    )
    late, report = overtaking(package, bucket, hurting, COMMITS[sink], (source, uri, one), (source, uri, two))
    assert isinstance(late, RunReport)
    assert (late.state, late.read, late.written, late.dead_letters) == ("done", ROWS, ROWS - 3, report.dead_letters)
    assert read(bucket, sink)["id"].to_list() == [i for i in range(ROWS) if i % 1024 != 7]
    executions = {k.split("r1-")[1][:8] for k in bucket.names() if "r1-" in k}
    assert len(executions) == 1
    assert len(letters(bucket, report)) == 3


@pytest.mark.parametrize("sink", COMMITS)
@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_of_two_runs_one_is_published(
    package: Path, bucket: Bucket, hurting: Proxy, source: Path, tmp_path: Path, sink: str, mode: Any
) -> None:
    uri = f"{bucket.uri}/{sink}"
    if mode == "overwrite":
        score(package, write(table(10), tmp_path / "old.parquet"), uri, ScoreOptions(run_id="r0", pass_through=("id",)))
    other = write(table(50, start=10_000), tmp_path / "other.parquet")
    one, two = (ScoreOptions(run_id=name, pass_through=("id",), mode=mode) for name in ("r1", "r2"))
    late, report = overtaking(package, bucket, hurting, COMMITS[sink], (source, uri, one), (other, uri, two))
    assert isinstance(late, RunError)
    assert "nothing was changed; choose another output, or resume with --overwrite" in str(late)
    assert read(bucket, sink)["id"].to_list() == list(range(10_000, 10_050))
    assert [k for k in bucket.names() if "r1-" in k] == []
    assert score(package, other, uri, two).state == "already_done"
    # With leave to replace what is there now, the one that lost goes on from what it has sealed.
    last = score(package, source, uri, ScoreOptions(run_id="r1", pass_through=("id",), mode="overwrite"))
    assert (last.state, last.resumed_shards) == ("done", 1)
    assert read(bucket, sink)["id"].to_list() == [i for i in range(ROWS) if i % 1024 != 7]
    assert report.state == "done"


def test_a_manifest_that_comes_late_is_not_put_beside_another_object(
    package: Path, bucket: Bucket, hurting: Proxy, source: Path, tmp_path: Path
) -> None:
    uri = f"{bucket.uri}/out.csv"
    other = write(table(50, start=10_000), tmp_path / "other.parquet")
    one = ScoreOptions(run_id="r1", pass_through=("id",))
    two = ScoreOptions(run_id="r2", pass_through=("id",), mode="overwrite")
    place = r"^PUT .*/out\.csv\.manifest\.json"
    late, _ = overtaking(package, bucket, hurting, place, (source, uri, one), (other, uri, two))
    assert isinstance(late, RunReport)  # it was published, and replaced
    assert json.loads(bucket.read("out.csv.manifest.json"))["run_id"] == "r2"
    assert score(package, other, uri, two).state == "already_done"
    assert read(bucket, "out.csv")["id"].to_list() == list(range(10_000, 10_050))


def test_a_part_that_vanishes_before_the_commit_is_missed(
    package: Path, bucket: Bucket, hurting: Proxy, source: Path, small_shards: None
) -> None:
    def remove() -> None:
        [key] = bucket.names("out/part-00001")
        bucket.client.delete_object(Bucket=bucket.name, Key=key)

    hurting.hurt("call after", r"^PUT .*out/part-00001", call=remove)
    options = ScoreOptions(run_id="r1", pass_through=("id",))
    with pytest.raises(SinkError, match=r"out/part-00001-r1-.*: is not there as it was written; resume the run"):
        score(package, source, f"{bucket.uri}/out", options)
    assert bucket.names() == []
    assert score(package, source, f"{bucket.uri}/out", options).resumed_shards == 3
    assert read(bucket, "out")["id"].to_list() == [i for i in range(ROWS) if i % 1024 != 7]


def test_what_executions_left_is_found_by_age(package: Path, bucket: Bucket, source: Path, small_shards: None) -> None:
    uri = f"{bucket.uri}/out"
    score(package, source, uri, ScoreOptions(run_id="r1"))
    kept = bucket.names()
    for name in (
        "part-00000-r0-0123abcd.parquet",
        "_tidemill/dead/r-0-0123abcd/part-00000.parquet",
        "_tidemill/probe-01",
    ):
        bucket.write(f"out/{name}", b"x")
    bucket.write("out/notes-0123abcd.parquet", b"mine")
    now = datetime.now(UTC)
    later = now + timedelta(hours=2)
    assert abandoned_objects(uri, timedelta(hours=1), now) == []
    found = abandoned_objects(uri, timedelta(hours=1), later)
    assert sorted(f.run_id for f in found) == ["", "r-0", "r0"]
    remove_objects(found)
    assert bucket.names() == sorted([*kept, "out/notes-0123abcd.parquet"])
    bucket.write("out/_tidemill/manifest.json", b"{")
    assert abandoned_objects(uri, timedelta(0), later) == []


def test_what_executions_left_beside_an_object(package: Path, bucket: Bucket, hurting: Proxy, source: Path) -> None:
    uri = f"{bucket.uri}/x.parquet"
    later = datetime.now(UTC) + timedelta(hours=2)
    for name in (
        ".x.parquet.r0-0123abcd.manifest.json",
        "x.parquet.r0-0123abcd.dead.parquet",
        "x.parquet.dead.parquet",
    ):
        bucket.write(name, b"x")
    assert len(abandoned_objects(uri, timedelta(hours=1), later)) == 2
    # The object is there, and its manifest not yet at its place.
    hurting.hurt("status", r"^PUT .*/x\.parquet\.manifest\.json", times=1000, status=403)
    score(package, source, uri, ScoreOptions(run_id="r1"))
    found = abandoned_objects(uri, timedelta(hours=1), later)
    assert sorted(f.entry.name for f in found) == [
        ".x.parquet.r0-0123abcd.manifest.json",
        "x.parquet.r0-0123abcd.dead.parquet",
    ]
    remove_objects(found)
    hurting.hurts[:] = []
    assert score(package, source, uri, ScoreOptions(run_id="r1")).state == "already_done"
    assert abandoned_objects(uri, timedelta(hours=1), later) == []
    assert len(bucket.names()) == 4  # with its manifest, its dead letters, and what is nobody's


def test_manifests_of_a_store_are_those_of_files(package: Path, bucket: Bucket, source: Path, tmp_path: Path) -> None:
    import msgspec

    score(package, source, f"{bucket.uri}/out", ScoreOptions(run_id="r1"))
    manifest = msgspec.json.decode(bucket.read("out/_tidemill/manifest.json"), type=RunManifest)
    sink = manifest.plan.job.sink
    assert (sink.uri, sink.manifest) == (f"{bucket.uri}/out", f"{bucket.uri}/out/_tidemill/manifest.json")
    assert "testing" not in bucket.read("out/_tidemill/manifest.json").decode()


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_a_job_without_its_index_is_compared_with_what_is_there(
    package: Path, source: Path, bucket: Bucket, tmp_path: Path, sink: str
) -> None:
    options = ScoreOptions(mode="overwrite")
    job = Job(
        name="nightly",
        package=str(package),
        source=str(source),
        sink=f"{bucket.uri}/{sink}",
        options=options,
        gate=Gate(max_change=0.1),
    )
    run_job(job, index=RunIndex(tmp_path / "lost"))
    write(table(ROWS // 2), source)
    with pytest.raises(Held, match=r"1,500 rows were read, 3,000 in the last run"):
        run_job(job, index=RunIndex(tmp_path / "empty"))
