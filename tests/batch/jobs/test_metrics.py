"""A run's metrics, as promtool and a receiver of pushes see them."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.batch.jobs.test_hooks import receiver
from tests.batch.jobs.test_index import record
from tidemill.batch.distribution import Distribution
from tidemill.batch.jobs.gate import Check
from tidemill.batch.jobs.index import HookResult, RunRecord
from tidemill.batch.jobs.metrics import Metrics, push, write_textfile
from tidemill.batch.jobs.telling import tell_metrics

Samples = dict[str, list[tuple[dict[str, str], float]]]


def full(state: str = "held") -> RunRecord:
    return record(
        state=state,
        read=100,
        written=90,
        dead=10,
        total_rows=200,
        errors={'strange "code"\n': 10},
        shards=4,
        shards_done=2,
        attempts={3: 2},
        seconds=10.0,
        rows_per_second=10.0,
        cost=0.5,
        finished_at="2026-01-02T00:00:00+00:00",
        outputs={
            "score": Distribution(cells=10, nulls=1, buckets={12000: 9}),
            "label": Distribution(cells=10, texts={"a": 10}),
        },
        checks=(Check(name="max_change", passed=False, found=1, limit=0.1, told="…"),),
        hooks=(HookResult(kind="webhook", passed=False, attempts=3),),
    )


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, []).append((one.labels, one.value))
    return found


def test_a_textfile_is_whole_and_promtool_has_nothing_against_it(tmp_path: Path) -> None:
    path = tmp_path / "nightly.prom"
    write_textfile(Metrics(textfile=str(path), labels={"team": "crm"}), full(), record("before"))
    found = samples(path.read_text())
    common = {"job_name": "nightly", "team": "crm"}
    states = {labels["state"]: value for labels, value in found["tidemill_job_state"]}
    assert states.pop("held") == 1
    assert len(states) == 7
    assert set(states.values()) == {0}
    assert found["tidemill_job_rows_read"] == [(common, 100)]
    assert found["tidemill_job_errors"] == [(common | {"code": 'strange "code"\n'}, 10)]
    assert found["tidemill_job_output_null_ratio"][0] == (common | {"output": "score"}, 0.1)
    assert {labels["output"] for labels, _ in found["tidemill_job_output_quantile"]} == {"score"}
    assert found["tidemill_job_gate_failed"] == [(common | {"check": "max_change"}, 1)]
    assert found["tidemill_job_hook_failed"] == [(common | {"hook": "webhook"}, 1)]
    assert [p.name for p in tmp_path.iterdir()] == ["nightly.prom"]
    promtool = shutil.which("promtool")
    assert promtool, "promtool comes with `make setup-services` (Debian, Ubuntu: apt-get install prometheus)"
    done = subprocess.run(["promtool", "check", "metrics"], input=path.read_bytes(), capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_the_last_success_outlives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "nightly.prom"
    name = "tidemill_job_last_success_timestamp_seconds"
    before = record("before", finished_at="2026-01-01T12:00:00+00:00")
    write_textfile(Metrics(textfile=str(path)), full("failed"), before)
    assert samples(path.read_text())[name][0][1] == 1767268800
    write_textfile(Metrics(textfile=str(path)), full("done"), before)
    assert samples(path.read_text())[name][0][1] == 1767312000
    write_textfile(Metrics(textfile=str(path)), full("failed"), None)
    assert name not in samples(path.read_text())


def test_what_is_pushed_arrives_under_the_name_of_the_job() -> None:
    with receiver(200, 503) as server:
        metrics = Metrics(pushgateway=server.url)
        push(metrics, full(), None)
        with pytest.raises(OSError, match="503"):
            push(metrics, full(), None)
    path, _, body = server.told[0]
    assert path == "/metrics/job/nightly"
    assert samples(body.decode())["tidemill_job_rows_read"] == [({"job_name": "nightly"}, 100)]


@pytest.mark.parametrize("answer", [b"", b"220 this is a mail server\r\n", b"HTTP/1.1 200 " + b"x" * 70_000])
def test_a_gateway_that_speaks_something_else_ends_no_run(answer: bytes) -> None:
    warned: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        tell_metrics(full(), None, Metrics(pushgateway=f"http://127.0.0.1:{server.getsockname()[1]}"), warned.append)
        thread.join()
    assert len(warned) == 1
    assert warned[0].startswith("metrics are not told: ")


@pytest.mark.parametrize("gateway", ["http://[x", "127.0.0.1:99999", "a..b"])
def test_an_address_that_is_none_ends_no_run(gateway: str) -> None:
    warned: list[str] = []
    tell_metrics(full(), None, Metrics(pushgateway=gateway), warned.append)
    assert [w.startswith("metrics are not told: ") for w in warned] == [True]


def test_a_gateway_that_answers_byte_by_byte_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends only when its metrics are told: a socket's own time limit begins anew with each byte."""
    monkeypatch.setattr("tidemill.batch.jobs.metrics._PUSH_SECONDS", 0.5)
    warned: list[str] = []
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                while not done.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=serve)
        thread.start()
        gateway = f"127.0.0.1:{server.getsockname()[1]}"
        tell_metrics(full(), None, Metrics(pushgateway=gateway), warned.append)
        done.set()
        thread.join()
    assert warned == ["metrics are not told: no answer within 0.5 s"]


def test_a_textfile_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none"):
        write_textfile(Metrics(textfile=str(tmp_path / "none" / "a.prom")), full(), None)
