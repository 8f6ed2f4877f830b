"""The load generators, and the part `http` in its smallest setting."""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from benchmarks import servers
from benchmarks.load import wrk
from benchmarks.machine import ROOT, cores, describe
from benchmarks.open_loop import Client
from benchmarks.report import Results, write
from benchmarks.servers import Server, WrongAnswerError, raw_echo, started
from benchmarks.serving import Settings, run

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk comes with `make setup-services`")
BODIES = [b'{"row": 1}', b'{"row": 22}']


@contextmanager
def answering(answers: list[bytes]) -> Iterator[int]:
    """A server of one connection that answers each read with the next of `answers`, then closes; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for answer in answers:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def test_open_loop_answers_every_planned_request(tmp_path: Path) -> None:
    with started(raw_echo(), cores().server, BODIES, tmp_path) as running:
        client = Client(running.server.port, "/", BODIES, connections=4)
        load = client.run(rate=2000, seconds=0.5, seed=1)
        client.close()
    assert (load.sent, load.errors) == (load.answered, 0)
    assert 800 < load.sent < 1200
    assert 0 < load.p50 <= load.p90 <= load.p99 <= load.p999 <= load.max


def test_open_loop_counts_what_is_not_a_200() -> None:
    good = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    bad = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with answering([good, bad, good]) as port:
        client = Client(port, "/", BODIES, connections=1)
        # The fourth request and those after it meet a closed connection; that one may be sent before it is known.
        load = client.run(rate=100, seconds=0.2, seed=1)
        client.close()
    assert load.answered == 2
    assert 3 <= load.sent <= 4
    assert load.errors > 5


def test_a_wrong_answer_stops_the_benchmark(tmp_path: Path) -> None:
    echo = raw_echo()
    never = Server(echo.key, echo.label, echo.command, echo.port, echo.path, lambda body, answer: False)
    with pytest.raises(WrongAnswerError, match="raw echo answered 200"), started(never, 0, BODIES, tmp_path):
        pass


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    program = Server("x", "x", [sys.executable, "-c", "print('no such model')"], 1, "/", lambda body, answer: True)
    with pytest.raises(WrongAnswerError, match="no such model"), started(program, 0, BODIES, tmp_path):
        pass


@needs_wrk
def test_wrk_reports_errors(tmp_path: Path) -> None:
    bodies = tmp_path / "bodies.jsonl"
    bodies.write_bytes(b"\n".join(BODIES))
    # A server of files answers a POST with 501.
    script = "import http.server, sys; http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]))"
    port = raw_echo().port
    command: list[str | Path] = [sys.executable, "-c", script, str(port)]
    files = Server("files", "files", command, port, "/", lambda body, answer: True)
    with started(files, cores().server, [], tmp_path) as running:
        load = wrk(running, bodies, 2, 1, cores())
    assert load.requests > 0
    assert load.errors >= load.non_2xx > 0


@needs_wrk
@pytest.mark.timeout(240)
def test_http_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "COMPILED", tmp_path / "nothing")  # another test may be building it
    settings = Settings(rounds=1, seconds=1, connections=(1, 64), open_seconds=0.3, shares=(0.2,))
    result = run(tmp_path, settings)
    assert {x.server for x in result.loads} == {"raw_echo", "granian", "tidemill"}
    assert all(x.requests > 0 and x.errors == 0 for x in result.loads)
    assert all(x.load.answered > 0 and x.load.errors == 0 for x in result.open_runs)
    report = write(Results(command="test", machine=describe(), http=result), tmp_path).read_text(encoding="utf-8")
    for words in (
        "requests/s over the raw echo's, 64 connections",
        "p50 over the raw echo's, 1 connection",
        "Open loop",
    ):
        assert words in report
    assert "<svg" in (tmp_path / "requests.svg").read_text(encoding="utf-8")
    again = msgspec.json.decode(msgspec.json.encode(result), type=type(result))
    assert again == result


def test_unknown_part_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "htp"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown part among htp" in done.stderr
