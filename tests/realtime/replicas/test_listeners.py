"""Another process's listening sockets, seen from outside."""

import socket
import subprocess
import sys

from tidemill.realtime.http import stop_handshakes
from tidemill.realtime.replicas.listeners import listeners_of, waiting

LISTENS = """
import socket, sys
one = socket.create_server(("127.0.0.1", 0))
other = socket.create_server(("127.0.0.1", 0))
print(one.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_what_waits_for_a_child_is_seen_and_no_more_comes() -> None:
    command = [sys.executable, "-c", LISTENS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        (listener,) = listeners_of(child.pid, port)
        with listener:
            assert waiting(listener) == 0
            with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
                assert waiting(listener) == 2
                stop_handshakes(listener)
                with socket.socket() as late:
                    late.settimeout(0.2)
                    assert late.connect_ex(("127.0.0.1", port)) != 0
                assert waiting(listener) == 2
        child.kill()


def test_of_a_process_that_is_gone_there_are_none() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
    assert listeners_of(child.pid, 1) == []


def test_a_handshake_that_has_begun_is_completed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        # With this the client's part of the handshake ends with its first bytes.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        client.connect(listener.getsockname())
        assert waiting(listener) == 0
        stop_handshakes(listener)
        client.sendall(b"first")
        listener.settimeout(5.0)
        with listener.accept()[0] as taken:
            assert taken.recv(5) == b"first"
            client.sendall(b"later")
            assert taken.recv(5) == b"later"
