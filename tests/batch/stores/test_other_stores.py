"""Google and Azure have no server here: what they share with S3 is tried over the library's own store in memory, which
keeps to conditions as theirs do; and how each is opened.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pytest
from obstore.store import AzureStore, GCSStore, MemoryStore

from tests.batch.support import answers, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.stores import connect
from tidemill.batch.stores.objects import Objects
from tidemill.batch.stores.uploads import put_once
from tidemill.errors import ConfigError, MissingExtra, RunError


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MemoryStore:
    store = MemoryStore()
    monkeypatch.setattr("tidemill.batch.stores.objects.open_bucket", lambda scheme, bucket: store)
    monkeypatch.chdir(tmp_path)
    return store


@pytest.mark.parametrize("scheme", ["gs", "az"])
@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_in_and_out(
    package: Path, memory: MemoryStore, tmp_path: Path, small_shards: None, scheme: str, sink: str
) -> None:
    rows = table(2500)
    memory.put("in/a.parquet", write(rows, tmp_path / "a.parquet", group=500))
    uri = f"{scheme}://bucket/{sink}"
    options = ScoreOptions(run_id="r1", pass_through=("id",), stage=f"{scheme}://bucket/stage")
    assert score(package, f"{scheme}://bucket/in", uri, options).written == 2500
    assert score(package, f"{scheme}://bucket/in", uri, options).state == "already_done"
    with pytest.raises(RunError, match=r"exists|holds the output of another run"):
        score(package, f"{scheme}://bucket/in", uri)
    names = sorted(m["path"] for page in memory.list() for m in page)
    parts = [n for n in names if n.startswith("out") and n.endswith("parquet")]
    found = pl.concat([pl.read_parquet(bytes(memory.get(n).bytes())) for n in parts])
    assert found["id"].to_list() == list(range(2500))
    assert found["score"].to_list() == answers(rows)["score"]
    assert len(names) == len(parts) + 2


def test_a_large_object_is_put_by_condition_without_being_held(
    memory: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.batch.stores.objects.PUT_BYTES", 1000)
    monkeypatch.setattr("tidemill.batch.stores.uploads.PUT_BYTES", 1000)
    objects = Objects("gs://bucket/x")
    for run in "123":
        (tmp_path / run).write_bytes(run.encode() * 100_000)
    assert put_once(objects, "big", tmp_path / "1", {"run": "1"}, None)
    assert not put_once(objects, "big", tmp_path / "2", {"run": "2"}, None)
    was = objects.head("big")
    assert put_once(objects, "big", tmp_path / "2", {"run": "2"}, was)
    assert not put_once(objects, "big", tmp_path / "3", {"run": "3"}, was)
    assert objects.get("big") == b"2" * 100_000


def test_each_is_opened_by_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    assert isinstance(connect.open_bucket("az", "container"), AzureStore)
    assert connect.open_bucket("az", "container") is connect.open_bucket("az", "container")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(ConfigError, match=r"az://container: cannot be opened: .*[Aa]ccount"):
        connect.open_bucket("az", "container")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert isinstance(connect.open_bucket("gs", "bucket"), GCSStore)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    monkeypatch.delenv("GOOGLE_SKIP_SIGNATURE")
    with pytest.raises(ConfigError, match="gs://bucket: cannot be opened: "):
        connect.open_bucket("gs", "bucket")


def test_without_the_extra_one_line_tells_what_to_install(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect._opened.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    for source, sink in (("s3://bucket/in", "out"), ("in.parquet", "gs://bucket/out")):
        with pytest.raises(MissingExtra, match=r"needs the 's3' extra: pip install 'tidemill\[s3\]'$"):
            score(package, source, sink)
