"""What `tidemill gc` collects in a store: uploads, parts that no manifest names, stages of runs that are over."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.batch.jobs.test_index import record
from tests.batch.stores.conftest import Bucket
from tests.batch.support import table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.jobs.gc import collect
from tidemill.batch.jobs.index import RunIndex, this_process

NOTHING = timedelta()


def test_what_no_manifest_names_goes_and_the_output_stays(package: Path, bucket: Bucket, tmp_path: Path) -> None:
    index, out = RunIndex(tmp_path / "home"), f"{bucket.uri}/out"
    score(package, write(table(1000), tmp_path / "in.parquet"), out, ScoreOptions(run_id="good"))
    published = bucket.names()
    for run_id in ("gone", "living", "held"):
        bucket.write(f"out/part-00000-{run_id}-0123abcd.parquet", b"half")
    bucket.write("out/part-of-something-else.parquet", b"theirs")
    index.write(record("living", state="running", stage="", output=out))
    index.write(record("held", state="held", stage="", output=out))
    assert collect([out], timedelta(hours=1), index, dry_run=False) == []
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key="out/x")  # moto has them all begun in 2010
    assert len(collect([out], NOTHING, index, dry_run=True)) == 4
    assert len(bucket.uploads()) == 1
    found = collect([out], NOTHING, index, dry_run=False)
    assert sorted((one.kind, one.kept) for one in found) == [
        ("object", ""),
        ("object", "held: publish or discard the run"),
        ("object", "its run is going on"),
        ("upload", ""),
    ]
    assert bucket.uploads() == []
    left = {f"out/part-00000-{run_id}-0123abcd.parquet" for run_id in ("living", "held")}
    assert set(bucket.names()) == {*published, *left, "out/part-of-something-else.parquet"}


@pytest.mark.parametrize(("state", "kept"), [("failed", ""), ("running", "its run is going on")])
def test_a_stage_goes_once_its_run_is_over(bucket: Bucket, tmp_path: Path, state: str, kept: str) -> None:
    index, stage = RunIndex(tmp_path / "home"), f"{bucket.uri}/stages/one"
    bucket.write("stages/one/plan.json", b"{}")
    bucket.write("stages/one/shards/00000.json", b"{}")
    bucket.write("stages/oneself", b"theirs")
    index.write(record("one", state=state, stage=stage, output=f"{bucket.uri}/out", driver=this_process()))
    found = collect([], NOTHING, index, dry_run=False)
    assert [(one.where, one.kept) for one in found if one.kind == "stage"] == [(stage, kept)]
    assert ("stages/one/plan.json" in bucket.names()) == bool(kept)
    assert "stages/oneself" in bucket.names()


def test_a_store_that_is_away_hides_nothing_else(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = RunIndex(tmp_path / "home")
    index.write(record("one", state="failed", stage="", output=f"{bucket.uri}-none/out"))
    found = collect([], NOTHING, index, dry_run=False)
    assert [(one.kind, one.kept.partition(":")[0]) for one in found] == [
        ("place", "cannot be looked at"),
        ("record", ""),
    ]
