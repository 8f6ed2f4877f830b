"""Hooks: real receivers and real programs, and all that may be wrong with them."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tidemill.batch.jobs import hooks as module
from tidemill.batch.jobs.hooks import Command, Hooks, Webhook, run_hooks

REPORT = {"run_id": "r1", "job": "nightly", "state": "done", "read": 10}


class Receiver(ThreadingHTTPServer):
    """Answers with the given codes, one after the other, and keeps what it was told."""

    daemon_threads = True

    def __init__(self, codes: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.codes = codes
        self.told: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.told.append((self.path, dict(self.headers), body))
        code = self.server.codes.pop(0) if self.server.codes else 200
        self.send_response(code)
        if code == 302:
            self.send_header("location", self.server.url + "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    do_PUT = do_POST

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def receiver(*codes: int) -> Iterator[Receiver]:
    server = Receiver(list(codes))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.01)


def test_a_webhook_gets_the_report_with_its_headers() -> None:
    with receiver() as server:
        hook = Webhook(url=f"{server.url}/a?b=c", headers={"authorization": "Bearer x"})
        [result] = run_hooks(Hooks(webhook=hook), REPORT)
    assert (result.passed, result.attempts) == (True, 1)
    [(path, headers, body)] = server.told
    assert path == "/a?b=c"
    assert json.loads(body) == REPORT
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == "Bearer x"
    assert {k.lower(): v for k, v in headers.items()}["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("codes", "passed", "attempts"),
    [
        ((503, 429, 200), True, 3),
        ((500, 500, 500, 200), False, 3),
        ((404, 200), False, 1),
        ((302, 200), False, 1),
        ((204,), True, 1),
    ],
)
def test_a_webhook_is_tried_again_only_where_that_may_help(codes: tuple[int, ...], passed: bool, attempts: int) -> None:
    with receiver(*codes) as server:
        [result] = run_hooks(Hooks(webhook=f"{server.url}/secret-in-path"), REPORT)
    assert (result.passed, result.attempts, len(server.told)) == (passed, attempts, attempts)
    assert "secret" not in result.told
    if not passed:
        assert str(codes[attempts - 1]) in result.told


def test_a_webhook_to_nobody_is_told_and_no_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        [result] = run_hooks(Hooks(webhook=Webhook(url=url, attempts=2)), REPORT)
    assert (result.passed, result.attempts) == (False, 2)
    assert "refused" in result.told


@pytest.mark.parametrize("dribble", [b"", b"HTTP/1.1 200 OK\r\nx: "])
def test_a_receiver_that_never_ends_holds_nobody_up(dribble: bytes) -> None:
    """Silence, and an answer that comes byte by byte: a socket's time limit sees only the first."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(dribble)
                while not done.wait(0.05):
                    if dribble:
                        connection.sendall(b"y")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            before = time.monotonic()
            [result] = run_hooks(Hooks(webhook=Webhook(url=url, timeout=0.3, attempts=1)), REPORT)
            assert not result.passed
            assert time.monotonic() - before < 20
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize(
    "url", ["http://[x", "http://[::1", "http://127.0.0.1:99999/geheim", "http://a..b/geheim", "http://a/geheim\x07"]
)
def test_an_address_that_is_none_is_told_and_no_error(url: str) -> None:
    """A job file has such an address refused; whoever writes Python is told at the end of the run, which stands."""
    [result] = run_hooks(Hooks(webhook=Webhook(url=url, attempts=1)), REPORT)
    assert not result.passed
    assert result.told
    assert "geheim" not in result.told


SHOW = """
import json, os, sys
path, *rest = sys.argv[1:]
names = {n: os.environ[n] for n in ("TIDEMILL_RUN_ID", "TIDEMILL_JOB", "TIDEMILL_STATE", "MINE")}
open(path, "w").write(json.dumps({"rest": rest, "env": names, "report": json.load(sys.stdin)}))
print("told")
"""


def test_a_command_gets_arguments_environment_and_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "told.json"
    argv = (sys.executable, "-c", SHOW, str(path), "$(touch /tmp/x) ; *", "")
    [result] = run_hooks(Hooks(command=Command(argv=argv, env={"MINE": "yes"})), REPORT)
    assert result.passed
    told = json.loads(path.read_text())
    assert told["rest"] == ["$(touch /tmp/x) ; *", ""]
    assert told["report"] == REPORT
    assert told["env"] == {"TIDEMILL_RUN_ID": "r1", "TIDEMILL_JOB": "nightly", "TIDEMILL_STATE": "done", "MINE": "yes"}
    assert capfd.readouterr().out == ""


def test_a_command_that_is_killed_takes_its_children_with_it(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {path}; wait"
    [result] = run_hooks(Hooks(command=Command(argv=("sh", "-c", script), timeout=0.5)), REPORT)
    assert not result.passed
    assert "was killed after 0.5 s" in result.told
    child = int(path.read_text())
    until = time.monotonic() + 10
    while _alive(child):
        assert time.monotonic() < until
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("argv", "told"),
    [(("no-such-program",), "No such file"), (("sh", "-c", "exit 7"), "ended with 7"), (("/",), "denied")],
)
def test_a_command_that_fails_is_told(argv: tuple[str, ...], told: str) -> None:
    [result] = run_hooks(Hooks(command=argv), REPORT)
    assert not result.passed
    assert told in result.told


def test_a_command_that_reads_nothing_is_well() -> None:
    big = REPORT | {"much": "x" * (1 << 20)}
    assert run_hooks(Hooks(command=("true",)), big)[0].passed


def test_hooks_are_told_only_of_what_they_ask_for() -> None:
    command = Command(argv=("true",), on=("failed", "held"))
    assert run_hooks(Hooks(command=command), REPORT) == []
    assert run_hooks(Hooks(command=command), REPORT | {"state": "held"}) != []
    assert run_hooks(Hooks(), REPORT) == []
    assert "MINE" not in os.environ


def test_variables_are_filled_in_when_the_run_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the address and the headers; a secret that was read from a file ends with a line break."""
    monkeypatch.setenv("HOOK_PATH", "T0/B1")
    monkeypatch.setenv("HOOK_TOKEN", "hunter2\n")
    with receiver() as server:
        hook = Webhook(url=server.url + "/${HOOK_PATH}", headers={"Authorization": "Bearer ${HOOK_TOKEN}"})
        [result] = run_hooks(Hooks(webhook=hook), REPORT)
    assert result.passed
    [(path, headers, _)] = server.told
    assert (path, headers["Authorization"]) == ("/T0/B1", "Bearer hunter2")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "the variable HOOK is not set"),
        ("hunter2\r\nX-Other: 1", "the variable HOOK holds characters other than printable ASCII"),
        ("hunter2 or 3", "url: is no address once its variables are filled in"),
    ],
)
def test_a_variable_that_does_not_fit_is_told_without_its_value(
    monkeypatch: pytest.MonkeyPatch, value: str | None, told: str
) -> None:
    monkeypatch.delenv("HOOK", raising=False)
    if value is not None:
        monkeypatch.setenv("HOOK", value)
    with receiver() as server:
        [result] = run_hooks(Hooks(webhook=server.url + "/${HOOK}"), REPORT)
    assert (result.passed, result.attempts, result.told) == (False, 0, told)
    assert server.told == []
