"""Servers whose machine runs out of something: they say of what, serve on, and are whole again once it is back."""

import json
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from tests.realtime import packages
from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import Callers, Fleet, ask, fleet, marked
from tests.realtime.serving import process
from tidemill.observability.reading import total
from tidemill.observability.recorder import CHUNK

TWO = {"minimum": 2, "balancer": "socket"}


@contextmanager
def scarce(pid: int, kind: int, amount: int) -> Iterator[None]:
    """Let a process have no more than so much of something."""
    soft, hard = resource.prlimit(pid, kind, (amount, resource.prlimit(pid, kind)[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, (soft, hard))


def test_out_of_files_for_a_moment(tmp_path: Path) -> None:
    counters = tmp_path / "counters"

    def told(family: str) -> float:
        return sum(sum(one.values) for one in total(counters).series.values() if one.family == family)

    with process(tmp_path, [packages.twice(tmp_path)], counters_dir=str(counters)) as server:
        host, _, port = server.address.rpartition(":")
        with httpx.Client(base_url=server.url) as client:
            sent = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
            assert client.post("/v2/models/twice/infer", json=sent).status_code == 200
            with (
                scarce(server.child.pid, resource.RLIMIT_NOFILE, 1),
                closing(socket.create_connection((host, int(port)))),
            ):
                used = told("process_cpu_seconds_total")
                many = 0
                # Until the process has looked at itself.
                while told("process_cpu_seconds_total") == used:
                    assert client.post("/v2/models/twice/infer", json=sent).status_code == 200
                    many += 1
            assert httpx.post(f"{server.url}/v2/models/twice/infer", json=sent, timeout=60).status_code == 200
            # It goes on looking.
            used = told("process_cpu_seconds_total")
            while told("process_cpu_seconds_total") == used:
                assert client.get("/v2/health/live").status_code == 200
            assert told("tidemill_rows_total") == many + 2
        assert [line for line in server.log if line["level"] == "error"] == []


def test_a_small_limit_on_files_is_shared_with_connections(tmp_path: Path) -> None:
    package = packages.twice(tmp_path)
    program = (
        "import sys, resource; from tidemill.realtime import ServeOptions, serve; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); serve(sys.argv[1:], ServeOptions(port=0))"
    )
    log_file = tmp_path / "server.log"
    with open(log_file, "wb") as log, subprocess.Popen([sys.executable, "-c", program, package], stderr=log) as child:
        try:
            server = Fleet(child, log_file)
            server.address = server.wait_for("ready")["address"]
            (told,) = [line["event"] for line in server.log if line["level"] == "warning"]
            assert told == "the limit on open files (200) allows 100 connections, not 10000: raise ulimit -n"
            host, _, port = server.address.rpartition(":")
            held = [socket.create_connection((host, int(port))) for _ in range(99)]
            assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
            held.append(socket.create_connection((host, int(port))))
            eventually(lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 503)
            for one in held:
                one.close()
        finally:
            child.kill()


def test_no_room_for_counters(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO) as server:
        callers = Callers(server.address, many=4, seconds=0.005)
        callers.go_on(20)
        with scarce(server.child.pid, resource.RLIMIT_FSIZE, CHUNK // 2):
            server.replicas()[0].kill()
            said = server.wait_for("replica did not start")["how"]
            assert "/counters: File too large for counters" in said
            server.child.send_signal(signal.SIGHUP)
            server.wait_for("the new version is not served; the old one is, as before")
            callers.go_on(20)
        server.wait_for("replica ready", 3)
        callers.go_on(20)
        callers.finish()
        assert len(callers.lost) <= 4, "what the killed one had"
        assert not [line for line in server.log if "supervisor is gone" in line["event"]]
        assert ask(server.url).status_code == 200


def test_a_log_that_nobody_reads_holds_up_no_answer(tmp_path: Path) -> None:
    package = packages.twice(tmp_path)
    program = (
        "import sys; from tidemill.realtime import ServeOptions, serve; "
        "serve(sys.argv[1:], ServeOptions(port=0, access_log=True, lame_duck=0.0))"
    )
    with subprocess.Popen([sys.executable, "-c", program, package], stderr=subprocess.PIPE) as child:
        try:
            assert child.stderr is not None
            lines = map(json.loads, child.stderr)
            address = next(line["address"] for line in lines if line["event"] == "ready")
            sent = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
            many = 1000  # their lines are more than a pipe holds
            with httpx.Client(base_url=f"http://{address}") as client:
                for _ in range(many):
                    assert client.post("/v2/models/twice/infer", json=sent).status_code == 200
                told = [next(lines) for _ in range(100)]
                # There is room again.
                assert client.post("/v2/models/twice/infer", json=sent).status_code == 200
            child.send_signal(signal.SIGTERM)
            told += list(lines)
        finally:
            child.kill()
    requests = [line for line in told if line["event"] == "request"]
    unwritten = sum(line.get("unwritten", 0) for line in told)
    assert unwritten > 0
    assert len(requests) + unwritten == many + 1


def test_signals_in_a_storm_are_heeded_once_or_twice(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO) as server:
        for _ in range(20):
            server.child.send_signal(signal.SIGHUP)
            ask(server.url)
        rolls = 3  # the first one of all, the one that began at once, and one for all that came meanwhile
        server.wait_for("rolling out", rolls)
        for _ in range(3):
            server.child.send_signal(signal.SIGHUP)
        server.wait_for("rolling out", rolls + 1)
        eventually(lambda: len(server.replicas()) == 2, 60)
        assert len(server.events("rolling out")) <= rolls + 2
