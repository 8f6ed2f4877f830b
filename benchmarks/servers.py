"""The servers that are measured: started on one core, asked for right answers, watched for CPU time, stopped."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

from benchmarks.machine import BIN, ROOT, pinned
from benchmarks.model import Model

COMPILED = ROOT / "build/compiled"  # `make compiled`
START_S = 60.0
STOP_S = 15.0
Check = Callable[[bytes, bytes], bool]


class WrongAnswerError(Exception):
    """A server did not answer what it should; nothing is timed."""


@dataclass(frozen=True)
class Server:
    """One program under test. `right(body, answer)` says whether it answered what it should.

    It is ready when a GET of `ready` is answered 200.
    """

    key: str
    label: str
    command: list[str | Path]
    port: int
    path: str
    right: Check
    ready: str = "/"

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"http://127.0.0.1:{self.port}"


class Running:
    """A started server."""

    def __init__(self, server: Server, process: subprocess.Popen[bytes]) -> None:
        self.server = server
        self.process = process
        self._family = [psutil.Process(process.pid)]

    def cpu_seconds(self) -> float:
        """CPU time used until now by the process and its children."""
        return sum(t.user + t.system for t in (p.cpu_times() for p in self._family))

    def rss_mb(self) -> float:
        """Resident memory of the process and its children, MB."""
        return sum(p.memory_info().rss for p in self._family) / 1e6

    def check(self, bodies: list[bytes]) -> None:
        """Send every body once and look at the answer. Raises WrongAnswerError."""
        self._family = [psutil.Process(self.process.pid)]
        self._family += self._family[0].children(recursive=True)
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)) as connection:
            for body in bodies:
                connection.request("POST", self.server.path, body, {"content-type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
                if response.status != 200 or not self.server.right(body, answer):
                    raise WrongAnswerError(
                        f"{self.server.label} answered {response.status} {answer[:300]!r} to {body[:300]!r}"
                    )


def raw_echo() -> Server:
    """Our ceiling: uvloop, httptools, nothing else."""
    port = free_port()
    command: list[str | Path] = [sys.executable, ROOT / "benchmarks/raw_echo.py", str(port)]
    return Server("raw_echo", "raw echo", command, port, "/", _echoes)


def granian_echo(mode: str, tasks: str) -> Server:
    """Granian's RSGI echo with one worker; `mode` is its runtime mode (st, mt), `tasks` its task implementation."""
    port = free_port()
    command: list[str | Path] = [BIN / "granian", "--interface", "rsgi", "--loop", "uvloop", "--http", "1", "--no-ws"]
    command += ["--workers", "1", "--runtime-mode", mode, "--task-impl", tasks, "--backlog", "4096"]
    command += ["--log-level", "warning", "--host", "127.0.0.1", "--port", str(port), "benchmarks.granian_echo:app"]
    return Server("granian", "Granian echo", command, port, "/", _echoes)


def tidemill(model: Model, bodies: list[bytes], *, interpreted: bool = False) -> Server:
    """`tidemill serve` with the model; its answers are those of ONNX Runtime, bit for bit.

    As a published wheel is, its hot path is compiled, if `make compiled` was run and `interpreted` is not asked for.
    """
    port = free_port()
    expected = dict(zip(bodies, model.answers(bodies), strict=True))

    def right(body: bytes, answer: bytes) -> bool:
        return same_values(orjson.loads(answer)["outputs"], expected[body])

    command: list[str | Path] = [BIN / "tidemill", "serve", model.package, "--port", str(port)]
    key, label = "tidemill", "tidemill serve"
    if interpreted:
        key, label = "interpreted", "the same, interpreted"
    elif is_compiled():
        command = ["env", f"PYTHONPATH={COMPILED}", *command]
    return Server(key, label, command, port, model.path, right, ready="/v2/health/ready")


@contextmanager
def started(server: Server, core: int, bodies: list[bytes], logs: Path) -> Iterator[Running]:
    """The server on `core`, answering rightly; stopped at the end. Its output goes to a file in `logs`."""
    logs.mkdir(parents=True, exist_ok=True)
    with ready(server, pinned(core, server.command), logs / f"{server.key}.log") as process:
        running = Running(server, process)
        running.check(bodies)
        yield running


@contextmanager
def ready(server: Server, command: list[str], log_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server started with `command` and ready; stopped at the end. Its output goes to the file."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _await(server, process, log_file)
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            # Some servers leave their workers behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def same_values(outputs: list[dict[str, Any]], expected: dict[str, list[float]]) -> bool:
    """Whether an answer's tensors hold what the model says, bit for bit in float32."""
    found = {output["name"]: output["data"] for output in outputs}
    return found.keys() == expected.keys() and all(
        _float32(found[name]) == _float32(values) for name, values in expected.items()
    )


def is_compiled() -> bool:
    """Whether `make compiled` was run, to its end."""
    return (COMPILED / ".done").exists()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _await(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            connection.request("GET", server.ready)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise WrongAnswerError(f"{server.label} did not become ready; it said:\n{log.read_text(errors='replace')[-2000:]}")


def _echoes(body: bytes, answer: bytes) -> bool:
    return body == answer


def _float32(values: list[float]) -> list[float]:
    import numpy as np

    return np.array(values, np.float32).tolist()
