"""Single operations while the store hurts: done once, or one clear error; what is there decides, not the answer."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.batch.stores.conftest import Bucket
from tests.batch.stores.proxy import Kind, Proxy
from tests.moto_server import Aws
from tidemill.batch import score
from tidemill.batch.stores import uploads
from tidemill.batch.stores.objects import PUT_BYTES, Objects
from tidemill.batch.stores.probe import check_conditions
from tidemill.batch.stores.uploads import abandoned_uploads, abort_uploads, put_once
from tidemill.errors import ConfigError, RunError, SinkError, SourceError

HURTS: list[tuple[Kind, int]] = [
    ("drop", 0),
    ("vanish", 0),
    ("status", 409),
    ("status", 500),
    ("status", 503),
    ("late status", 409),
    ("late status", 412),
    ("late status", 500),
    ("late status", 503),
]


@pytest.fixture
def objects(bucket: Bucket, hurting: Proxy) -> Objects:
    return Objects(f"{bucket.uri}/a/b", SinkError)


@pytest.mark.parametrize(
    ("kind", "status", "times"), [*((k, s, 1) for k, s in HURTS), ("drop", 0, 5), ("status", 409, 3)]
)
def test_a_create_is_settled_by_what_is_there(
    objects: Objects, bucket: Bucket, hurting: Proxy, kind: Kind, status: int, times: int
) -> None:
    hurting.hurt(kind, r"^PUT .*/marker", times=times, status=status)
    assert objects.create("marker", b"mine") == b"mine"
    assert bucket.read("a/b/marker") == b"mine"
    assert objects.create("marker", b"other") == b"mine"
    assert bucket.read("a/b/marker") == b"mine"


@pytest.mark.parametrize(("kind", "status"), HURTS)
def test_a_create_where_something_is_returns_that(
    objects: Objects, bucket: Bucket, hurting: Proxy, kind: Kind, status: int
) -> None:
    bucket.write("a/b/marker", b"theirs")
    hurting.hurt(kind, r"^PUT .*/marker", times=2, status=status)
    hurting.hurt("drop", r"^GET .*/marker")
    assert objects.create("marker", b"mine") == b"theirs"
    assert bucket.read("a/b/marker") == b"theirs"


@pytest.mark.parametrize(("kind", "status"), HURTS)
def test_a_replace_is_settled_by_what_is_there(
    objects: Objects, bucket: Bucket, hurting: Proxy, kind: Kind, status: int
) -> None:
    bucket.write("a/b/manifest", b"old")
    was = objects.head("manifest")
    assert was is not None
    hurting.hurt(kind, r"^PUT .*/manifest", times=2, status=status)
    assert objects.replace(was, b"mine") == b"mine"
    assert bucket.read("a/b/manifest") == b"mine"
    assert objects.replace(was, b"late") == b"mine"
    assert bucket.read("a/b/manifest") == b"mine"
    bucket.client.delete_object(Bucket=bucket.name, Key="a/b/manifest")
    with pytest.raises(SinkError, match="manifest: was removed by somebody else"):
        objects.replace(was, b"late")


def test_a_store_that_stays_away_is_one_error(
    objects: Objects, hurting: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.batch.stores.tries._TRIES", 3)
    hurting.hurt("status", r"^PUT .*/marker", times=1000, status=503)
    with pytest.raises(SinkError, match=r"a/b: marker cannot be written: .*503") as caught:
        objects.create("marker", b"mine")
    assert "\n" not in str(caught.value)
    many = len(hurting.seen)
    assert 6 < many < 50
    monkeypatch.setattr("tidemill.batch.stores.tries._PATIENCE", 0.0)
    with pytest.raises(SinkError, match="marker cannot be written"):
        objects.create("marker", b"mine")
    assert len(hurting.seen) - many < many


@pytest.mark.parametrize("kind", ["cut", "drop", "vanish", "late status"])
def test_reads_come_whole(objects: Objects, bucket: Bucket, hurting: Proxy, tmp_path: Path, kind: Kind) -> None:
    data = os.urandom(300_000)
    bucket.write("a/b/data", data)
    entry = objects.head("data")
    assert entry is not None
    hurting.hurt(kind, r"^GET .*/data", times=3, status=500)
    assert objects.get("data") == data
    hurting.hurt(kind, r"^GET .*/data", times=3, status=500)
    assert objects.read(entry, 1000, 200_000) == data[1000:200_000]
    hurting.hurt(kind, r"^GET .*/data", times=3, status=500)
    fetched = objects.fetch("data", tmp_path / "data")
    assert fetched is not None
    assert fetched[0] == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "data").read_bytes() == data
    hurting.hurt(kind, r"^GET .*list-type", times=3, status=500)
    assert [(e.name, e.size) for e in objects.list()] == [("data", 300_000)]


def test_an_object_that_changed_is_not_read_on(objects: Objects, bucket: Bucket) -> None:
    for later in (b"0" * 100, b"1" * 50):
        bucket.write("a/b/data", b"1" * 100)
        entry = objects.head("data")
        assert entry is not None
        assert objects.read(entry, 10, 20) == b"1" * 10
        bucket.write("a/b/data", later)
        with pytest.raises(SinkError, match="data: was changed or removed while it was read; begin a new run"):
            objects.read(entry, 10, 20)
    bucket.client.delete_object(Bucket=bucket.name, Key="a/b/data")
    with pytest.raises(SinkError, match="data: was changed or removed"):
        objects.read(entry, 10, 20)


@pytest.mark.parametrize(("kind", "status"), [("drop", 0), ("late status", 500)])
def test_a_large_file_goes_up_in_parts_and_none_stay(
    objects: Objects,
    bucket: Bucket,
    hurting: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    status: int,
) -> None:
    monkeypatch.setattr("tidemill.batch.stores.objects.PUT_BYTES", 10 << 20)
    data = os.urandom(12 << 20)
    (tmp_path / "file").write_bytes(data)
    hurting.hurt(kind, r"^POST .*uploads", status=status)
    hurting.hurt(kind, r"^PUT .*partNumber=2", status=status)
    hurting.hurt(kind, r"^POST .*uploadId=", status=status)
    objects.put("large", tmp_path / "file", {"sha256": "abc"})
    assert bucket.read("a/b/large") == data
    assert bucket.client.head_object(Bucket=bucket.name, Key="a/b/large")["Metadata"] == {"sha256": "abc"}
    now = datetime.now(UTC) + timedelta(minutes=1)
    hurting.hurt("status", r"^PUT .*partNumber=2", times=1000, status=503)
    monkeypatch.setattr("tidemill.batch.stores.tries._TRIES", 2)
    with pytest.raises(SinkError, match="larger cannot be written"):
        objects.put("larger", tmp_path / "file")
    # The reply that told of an upload was lost: nobody but the store knows of it, until somebody asks.
    abort_uploads(bucket.uri, abandoned_uploads(f"{bucket.uri}/a/b", timedelta(0), now))
    assert bucket.uploads() == []
    assert bucket.names() == ["a/b/large"]


@pytest.mark.parametrize(
    ("size", "kind", "status"),
    [
        *((1000, kind, status) for kind, status in HURTS),
        (11 << 20, "drop", 0),
        (11 << 20, "status", 409),
        (11 << 20, "late status", 412),
    ],
)
def test_one_conditional_put_of_a_file(
    objects: Objects,
    bucket: Bucket,
    hurting: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    kind: Kind,
    status: int,
) -> None:
    monkeypatch.setattr(uploads, "PUT_BYTES", 10 << 20)
    monkeypatch.setattr(uploads, "_PART", 6 << 20)
    for run in ("1", "2", "3"):
        (tmp_path / run).write_bytes(os.urandom(size))
    commit = r"^POST .*uploadId=" if size > 10 << 20 else r"^PUT .*/x\.parquet"
    hurting.hurt(kind, commit, times=2, status=status)
    assert put_once(objects, "x.parquet", tmp_path / "1", {"run": "1"}, None)
    assert bucket.read("a/b/x.parquet") == (tmp_path / "1").read_bytes()
    assert not put_once(objects, "x.parquet", tmp_path / "2", {"run": "2"}, None)
    was = objects.head("x.parquet")
    hurting.hurt(kind, commit, times=2, status=status)
    assert put_once(objects, "x.parquet", tmp_path / "2", {"run": "2"}, was)
    assert not put_once(objects, "x.parquet", tmp_path / "3", {"run": "3"}, was)
    assert bucket.read("a/b/x.parquet") == (tmp_path / "2").read_bytes()
    assert objects.attributes("x.parquet") == {"content-type": "binary/octet-stream", "run": "2"}
    assert bucket.uploads() == []


def test_uploads_are_found_by_age_and_aborted(bucket: Bucket) -> None:
    for key in ("out/a", "out/b", "outer/c", "out"):
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    # The test's server says of each that it was begun then.
    now = datetime(2010, 11, 10, 21, 0, tzinfo=UTC)
    assert abandoned_uploads(f"{bucket.uri}/out", timedelta(hours=1), now) == []
    found = abandoned_uploads(f"{bucket.uri}/out", timedelta(hours=1), now + timedelta(hours=2))
    assert sorted(u.key for u in found) == ["out", "out/a", "out/b"]
    abort_uploads(bucket.uri, found)
    abort_uploads(bucket.uri, found)
    assert bucket.uploads() == ["outer/c"]


def test_a_store_that_ignores_conditions_is_found_out(objects: Objects, bucket: Bucket, hurting: Proxy) -> None:
    check_conditions(objects, replacing=True)
    hurting.hurt("unconditional", "^PUT", times=100)
    for replacing in (False, True):
        with pytest.raises(SinkError, match="this store ignores conditions"):
            check_conditions(objects, replacing=replacing)
    hurting.hurts.clear()
    hurting.hurt("unconditional", "^PUT", times=100, skip=2)
    check_conditions(objects, replacing=False)
    hurting.hurts.clear()
    hurting.hurt("unconditional", "^PUT", times=100, skip=2)
    with pytest.raises(SinkError, match="this store ignores conditions"):
        check_conditions(objects, replacing=True)
    assert bucket.names() == []


@pytest.mark.parametrize(
    "uri",
    ["s3://", "s3:///x", "ftp://b/x", "x", "s3://a b/x", "s3://user:pw123@bucket/x", "s3://b!/x", "s3://" + "y" * 300],
)
def test_what_names_no_bucket_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="a store is expected as SCHEME://BUCKET/NAME") as caught:
        Objects(uri)
    assert "pw123" not in str(caught.value)


@pytest.mark.parametrize("name", ["a//b", "../x", "a/./b.parquet", "a/..", "\x01", "a\nb"])
def test_a_name_that_tools_would_take_for_another_is_refused(package: Path, bucket: Bucket, name: str) -> None:
    for source, sink in ((f"{bucket.uri}/{name}", "out"), ("in.parquet", f"{bucket.uri}/{name}")):
        with pytest.raises(ConfigError, match="a name in a store has no empty part"):
            score(package, source, sink)


def test_a_bucket_that_is_not_there(aws: Aws) -> None:
    with pytest.raises(RunError, match=r"^s3://no-such-bucket: there is no such bucket$"):
        Objects("s3://no-such-bucket/x").create("a", b"")
    with pytest.raises(SourceError, match=r"^s3://no-such-bucket: there is no such bucket$"):
        list(Objects("s3://no-such-bucket/x", SourceError).list())


def test_a_key_that_nobody_can_name(bucket: Bucket) -> None:
    bucket.write("odd/a//b.parquet", b"x")
    with pytest.raises(SourceError, match=r"odd: its objects cannot be listed: .*odd/a//b\.parquet"):
        list(Objects(f"{bucket.uri}/odd", SourceError).list())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://store.example:9000", "store.example over plain http"),
        ("http://u:pw123@127.0.0.1:1", "no user or password"),
        ("http://bad host:1", "expected http://HOST:PORT"),
        ("http://127.0.0.1:99999", "expected http://HOST:PORT"),
        ("ftp://x", "expected http://HOST:PORT"),
        ("store.example", "expected http://HOST:PORT"),
    ],
)
def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch, url: str, told: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(ConfigError, match=f"AWS_ENDPOINT_URL: .*{told}") as caught:
        Objects("s3://bucket/x")
    assert "pw123" not in str(caught.value)


def test_plain_http_elsewhere_is_for_those_who_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example:9000")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    Objects("s3://bucket/x")


def test_nobody_at_the_endpoint(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")
        monkeypatch.setattr("tidemill.batch.stores.tries._TRIES", 1)
        with pytest.raises(RunError, match=r"^s3://bucket/x: y cannot be looked at: HTTP error: error sending request"):
            Objects("s3://bucket/x").head("y")


def test_strange_names_stay_what_they_are(objects: Objects, bucket: Bucket) -> None:
    for name in ("with space", "ünï=5%2F/#?", "a+b&c"):
        objects.put(name, b"x")
        assert objects.get(name) == b"x"
    assert {e.name for e in objects.list()} == {"with space", "ünï=5%2F/#?", "a+b&c"}
    assert set(bucket.names()) == {f"a/b/{n}" for n in ("with space", "ünï=5%2F/#?", "a+b&c")}
    objects.delete(e.name for e in objects.list())
    objects.delete(["never there"])
    assert bucket.names() == []


def test_pickled_it_opens_anew(objects: Objects, bucket: Bucket) -> None:
    objects.put("x", b"1")
    again = pickle.loads(pickle.dumps(objects))
    assert (again.get("x"), again.uri, again.error) == (b"1", objects.uri, SinkError)


def test_a_file_above_one_put_is_what_large_means() -> None:
    """S3 takes parts of 5 MiB and more; half of it is one part."""
    assert PUT_BYTES // 2 >= 5 << 20
