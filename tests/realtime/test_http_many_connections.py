"""Ten thousand connections that never finish a request keep nobody else from being served."""

import resource
import subprocess
import sys

from tests.realtime.http_client import echo, eventually, post, serving
from tidemill.realtime.http import HttpLimits

MOST = 10_000
NEED = MOST + 1000

# A process of its own: together both ends would need more files than one process usually may open.
HALF_OPEN = """
import resource, socket, sys
port, count, need = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (need, max(need, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
held = []
for i in range(count):
    held.append(socket.create_connection(("127.0.0.1", port)))
    held[-1].sendall(b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Le"[: 1 + i % 40])
print("held", flush=True)
sys.stdin.read()
"""


def test_ten_thousand_half_open_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < NEED:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, NEED))
    limits = HttpLimits(max_connections=MOST, header_timeout=300.0)
    with serving(echo, limits) as running, running.client() as normal:
        normal.send(post(b"before")).answer()
        with subprocess.Popen(
            [sys.executable, "-c", HALF_OPEN, str(running.port), str(MOST - 1), str(NEED)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as attacker:
            assert attacker.stdout.readline() == b"held\n"
            eventually(lambda: running.server.connections == MOST)
            for i in range(100):
                assert normal.send(post(b"%d" % i)).answer().body == b"%d" % i
            refused = [running.client() for _ in range(20)]
            for client in refused:
                answer = client.send(post(b"late")).answer()
                assert (answer.status, answer.closes) == (503, True)
                assert int(answer.headers[b"retry-after"]) >= 1
                assert "limit of 10000 connections" in answer.error
                assert client.rest() == b""
                client.socket.close()
            assert running.server.refused == 20
            attacker.stdin.close()
        eventually(lambda: running.server.connections == 1)
        assert running.ask(post(b"after")).body == b"after"


def test_every_refused_connection_is_told_so() -> None:
    with serving(echo, HttpLimits(max_connections=1)) as running, running.client() as only:
        only.send(post(b"")).answer()
        refused = [running.client() for _ in range(400)]
        for client in refused:
            assert client.answer().status == 503
            assert client.rest() == b""
        for client in refused:
            client.socket.close()
        assert only.send(post(b"still")).answer().body == b"still"
        eventually(lambda: running.server.connections == 1)
        assert running.server.refused == 400
