"""job.toml: what it comes to, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.batch.databases.local import database_path
from tidemill.batch.job import GROUPED, Errors, JobFile, Limits, read_job
from tidemill.batch.options import ScoreOptions
from tidemill.batch.places import parse_place
from tidemill.errors import ConfigError

LEAST = """
name = "nightly"
package = "model"
source = "in/"
sink = "out/"
"""

FULL = """
name = "nightly-churn"
package = "/models/churn"
source = { uri = "postgresql://me:geheim@dw/crm", table = "subscribers", where = "active and age > 17" }
sink = { uri = "postgresql://me:geheim@dw/crm?table=churn", mode = "upsert", key = ["id"] }
guarantee = "idempotent by key"
pass_through = ["id"]
select = ["score"]
chunk_rows = 1000
call_rows = 100
workers = 2
dead_letters = "dead.parquet"
stage = "stage"
run_id = "one"
[errors]
max_rate = 0.001
max_rows = 100
on_poisoned_shard = "quarantine"
[limits]
run_timeout = 3600
[engine]
name = "local"
price_per_hour = 0.35
[gate]
min_rows = 1000
max_change = 0.2
max_null_rate = { score = 0.01 }
max_psi = 0.2
[hooks]
webhook = "https://hooks.example/x"
command = { argv = ["notify", "--me"], timeout = 5, on = ["failed", "held"] }
[metrics]
textfile = "node/nightly.prom"
pushgateway = "http://localhost:9091"
labels = { team = "crm" }
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "job.toml"
    path.write_text(text)
    return path


def problems(directory: Path, text: str, *changes: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read_job(write(directory, text), changes)
    return list(error.value.problems)


def test_the_least_job_has_the_defaults_of_score(tmp_path: Path) -> None:
    job = read_job(write(tmp_path, LEAST))
    assert job.options == ScoreOptions()
    assert (job.package, job.source, job.sink) == (f"{tmp_path}/model", f"{tmp_path}/in/", f"{tmp_path}/out/")


def test_a_full_job_comes_to_options_of_score(tmp_path: Path) -> None:
    job = read_job(write(tmp_path, FULL))
    assert job.options == ScoreOptions(
        chunk_rows=1000,
        call_rows=100,
        workers=2,
        select=("score",),
        pass_through=("id",),
        run_id="one",
        max_error_rate=0.001,
        max_errors=100,
        on_poisoned_shard="quarantine",
        run_timeout=3600.0,
        dead_letters=f"{tmp_path}/dead.parquet",
        mode="upsert",
        key=("id",),
        stage=f"{tmp_path}/stage",
    )
    assert job.package == "/models/churn"
    assert job.source == "postgresql://me:geheim@dw/crm?table=subscribers&where=active%20and%20age%20%3E%2017"
    assert job.sink == "postgresql://me:geheim@dw/crm?table=churn"
    assert job.price_per_hour == 0.35
    assert job.metrics.textfile == f"{tmp_path}/node/nightly.prom"


def test_every_option_of_score_can_be_said_in_a_job() -> None:
    plain = set(ScoreOptions.__struct_fields__) - GROUPED.keys()
    assert plain <= set(JobFile.__struct_fields__)
    for table, field in GROUPED.values():
        assert field in {"errors": Errors, "limits": Limits}[table].__struct_fields__


def test_every_problem_is_told_at_once_with_its_path(tmp_path: Path) -> None:
    text = (
        LEAST.replace('package = "model"', "") + "chunk_row = 5\nworkers = 0\n[gate]\nmax_ks = 2\n[errors]\nrate = 1\n"
    )
    found = problems(tmp_path, text)
    assert [p.split(": ")[:2] for p in found] == [
        ["job.toml", "chunk_row"],
        ["job.toml", "errors.rate"],
        ["job.toml", "gate.max_ks"],
        ["job.toml", "package"],
        ["job.toml", "workers"],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('name = "a/b"', "name: "),
        ('name = "../../etc"', "name: "),
        ("name = ''", "name: "),
        ('sink = { mode = "upsert" }', "sink: uri: required, a text, but missing"),
        ('sink = { uri = "postgresql://h/d", mode = "replace" }', "sink.mode: expected one of"),
        ('sink = { uri = "postgresql://h/d", key = "id" }', "sink.key: expected `array`"),
        ('sink = { uri = "postgresql://h/d", columns = ["a"] }', "sink: columns: expected a text"),
        ('sink = { uri = "out/", table = "x" }', "sink: table: a path takes no options"),
        ("source = { uri = 5 }", "source: uri: required, a text, but got int"),
        ('source = ["a", "b"]', "source: "),
        ('sink = "ftp://host/x"', "sink: ftp://host/x: the scheme ftp:// is not known"),
        ('sink = "ftp://me:geheim@host/x"', "the scheme ftp:// is not known"),
        ('source = ["postgresql://me:geheim@host/db"]', "source: "),
        ('sink = { uri = ["postgresql://me:geheim@host/db"] }', "sink: uri: required"),
        ('sink = { uri = "postgresql://host/db", password = ["geheim"] }', "sink: password: expected a text"),
        ('sink = { uri = "postgresql://host/db", password = { x = "geheim" } }', "sink.password: expected"),
        ('guarantee = "postgresql://me:geheim@host/db"', "guarantee: expected one of"),
        ('hooks.webhook = "https://me:geheim@host/"', "hooks.webhook"),
        ('hooks.webhook = "https://host/geheim "', "hooks.webhook"),
        ('hooks.webhook = "https://host/geheim\\u0007"', "hooks.webhook"),
        ('hooks.webhook = "http://[x"', "hooks.webhook"),
        ('hooks.webhook = { url = "https://a/", headers = { b = "geheim\\n" } }', "hooks.webhook.headers.b"),
        ('hooks.command = { argv = ["a"], env = { "A-B" = "geheim" } }', "hooks.command.env: expected `str` matching"),
        ('hooks.command = { argv = ["a"], env = { A = ["geheim"] } }', "hooks.command.env.A: expected `str`"),
        ('metrics.pushgateway = "http://me:geheim@host"', "metrics.pushgateway: expected `str`"),
        ('package = "a\\u0000b"', "package: a…: holds a NUL character"),
        ('sink = "a\\u0000b"', "sink: "),
        ("chunk_rows = 9223372036854775808", "chunk_rows: expected `int` <= 9223372036854775807"),
        ("gate.max_psi = inf", "gate.max_psi: expected `float` <= 1000000"),
        ("gate.max_change = inf", "gate.max_change: expected `float` <= 1000000"),
        ('run_id = "a b"', "run_id: "),
        ('guarantee = "certain"', "guarantee: expected one of"),
        ('hooks.webhook = "file:///etc/passwd"', "hooks.webhook"),
        ('hooks.webhook = "http://"', "hooks.webhook"),
        ('hooks.webhook = { url = "http://a/", headers = { a = "b\\r\\nc: d" } }', "hooks.webhook"),
        ("hooks.command = []", "hooks.command"),
        ('hooks.command = "rm -rf /"', "hooks.command"),
        ('hooks.command = { argv = ["a\\u0000b"] }', "hooks.command"),
        ('hooks.command = { argv = ["x"], timeout = 1e9 }', "hooks.command.timeout"),
        ('metrics.textfile = "x.txt"', "metrics.textfile"),
        ('metrics.labels = { job_name = "x" }', "metrics.labels"),
        ('metrics.labels = { "a-b" = "x" }', "metrics.labels"),
        ("gate.max_null_rate = { score = 2 }", "gate.max_null_rate"),
        ("engine.price_per_hour = -1", "engine.price_per_hour"),
        ("engine.price_per_hour = nan", "engine.price_per_hour"),
        ("errors.max_rate = inf", "errors.max_rate"),
    ],
)
def test_a_hostile_or_mistaken_value_is_refused_by_its_name(tmp_path: Path, change: str, message: str) -> None:
    key = change.split("=")[0].strip()
    lines = [line for line in LEAST.splitlines() if line.split("=")[0].strip() != key]
    found = problems(tmp_path, "\n".join([change, *lines]))
    assert any(message in p for p in found), found
    assert all(p.startswith("job.toml: ") for p in found)
    assert not any("geheim" in p for p in found)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"name = ",
        b"a = " + b"[" * 5000,
        b"x = " + b"9" * 5000,
        b"name = 1\nname = 2",
        b"\x00",
        b"#" * (2 << 20),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"job\.toml"):
        read_job(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_job(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="directory"):
        read_job(tmp_path)


def test_changes_replace_single_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    job = read_job(
        write(tmp_path, LEAST),
        [
            "errors.max_rate=0.5",
            'pass_through=["a", "b"]',
            "run_id=two",
            "sink=here.csv",
            "workers = 3",
            "sink.mode=overwrite",
        ],
    )
    assert (job.options.max_error_rate, job.options.pass_through) == (0.5, ("a", "b"))
    assert (job.options.run_id, job.options.workers) == ("two", 3)
    assert (job.sink, job.options.mode) == ("/here.csv", "overwrite")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("workers", "expected FIELD=VALUE"),
        ("=5", "expected FIELD=VALUE"),
        ("a b=5", "expected FIELD=VALUE"),
        ("worker=5", "worker: unknown key"),
        ("workers=many", "workers: expected"),
        ("name.first=x", "name is no table"),
        ('workers=1\nname="other"', "workers: expected"),
    ],
)
def test_a_change_that_is_none_is_refused(tmp_path: Path, change: str, message: str) -> None:
    assert message in "\n".join(problems(tmp_path, LEAST, change))


@pytest.mark.parametrize(
    ("place", "read"),
    [
        ("in/", "{root}/in/"),
        ("/in", "/in"),
        ("delta:lake/in?version=3", "delta:{root}/lake/in?version=3"),
        ("delta:/lake/in", "delta:/lake/in"),
        ("delta:file:///lake/in", "delta:file:///lake/in"),
        ("delta:s3://bucket/in", "delta:s3://bucket/in"),
        ("files:scans?glob=*.jpg", "files:{root}/scans?glob=*.jpg"),
        ("s3://bucket/in", "s3://bucket/in"),
        ("sqlite:crm.db?query=SELECT '//'", "sqlite:{root}/crm.db?query=SELECT '//'"),
        ("sqlite:///crm.db?table=t", "sqlite:///{root}/crm.db?table=t"),
        ("sqlite:////data/crm.db?table=t", "sqlite:////data/crm.db?table=t"),
        ("duckdb:///crm.db?table=t", "duckdb:///{root}/crm.db?table=t"),
        ("postgresql://dw/crm?table=t", "postgresql://dw/crm?table=t"),
    ],
)
def test_paths_of_this_machine_start_at_the_file(tmp_path: Path, place: str, read: str) -> None:
    job = read_job(write(tmp_path, LEAST.replace('"in/"', f'"{place}"')))
    assert job.source == read.format(root=tmp_path)


def test_a_directory_of_any_name_holds_a_database_file(tmp_path: Path) -> None:
    (tmp_path / "50%41").mkdir()
    job = read_job(write(tmp_path / "50%41", LEAST.replace('"in/"', '"sqlite:///crm.db?table=t"')))
    assert database_path(parse_place(job.source)) == tmp_path / "50%41" / "crm.db"
