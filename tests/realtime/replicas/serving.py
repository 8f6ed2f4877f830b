"""A supervisor with its replicas as real processes, and callers that know what became of each of their requests."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.packages import make
from tests.realtime.http_client import eventually
from tidemill.model.manifest import Slo
from tidemill.model.signature import Input, Output

PATIENCE = 60.0

# Sleeps as long as its rows say and tells which process it is. A mark of -1 hangs, -2 ends the process.
MARKED = """
import os
import time
import numpy as np


class Model:
    inputs = {"mark": ("INT64", [-1]), "seconds": ("FP32", [-1])}
    outputs = {"mark": ("INT64", [-1]), "pid": ("INT64", [-1])}
    thread_safe = True

    def load(self, directory):
        LOAD

    def predict(self, rows):
        if (rows["mark"] == -1).any():
            time.sleep(3600)
        if (rows["mark"] == -2).any():
            os._exit(7)
        time.sleep(WORK + float(rows["seconds"].max()))
        return {"mark": rows["mark"], "pid": np.full(len(rows["mark"]), os.getpid())}
"""


def marked(
    directory: Path,
    version: str = "1",
    load: str = "pass",
    work: float = 0.0,
    timeout_ms: float = 30_000,
    **manifest: Any,
) -> Path:
    """`mark` and `seconds` (-1): sleeps for `work` and these; gives back the mark and the pid of who answered."""
    inputs = [Input(name="mark", datatype="INT64"), Input(name="seconds", datatype="FP32", minimum=0, maximum=60)]
    outputs = [Output(name="mark", datatype="INT64"), Output(name="pid", datatype="INT64")]
    source = MARKED.replace("LOAD", load).replace("WORK", str(work))
    slo = Slo(timeout_ms=timeout_ms)
    target = directory / f"marked-{version}"
    made = make(target, "python", source, inputs, outputs, name="marked", version=version, slo=slo, **manifest)
    return made.directory


def body(mark: int, seconds: float = 0.0) -> bytes:
    """A request of one row."""
    inputs = [
        {"name": "mark", "shape": [1], "datatype": "INT64", "data": [mark]},
        {"name": "seconds", "shape": [1], "datatype": "FP32", "data": [seconds]},
    ]
    return json.dumps({"inputs": inputs}).encode()


PATH = "/v2/models/marked/infer"


class Fleet:
    """A supervisor process and what it wrote."""

    def __init__(self, child: "subprocess.Popen[bytes]", log_file: Path) -> None:
        self.child = child
        self.address = ""
        self._log_file = log_file

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def text(self) -> str:
        return self._log_file.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log and that of its replicas, until now."""
        whole = [line for line in self.text.splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole if line.startswith("{")]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == name]

    def wait_for(self, event: str, many: int = 1) -> dict[str, Any]:
        """The so-manieth line of that event; it must come while the supervisor runs."""

        def there() -> bool:
            ended = self.child.poll() is not None
            found = len(self.events(event)) >= many
            assert found or not ended, f"ended with {self.child.returncode}: {self.text}"
            return found

        eventually(there)
        return self.events(event)[many - 1]

    def replicas(self) -> list[psutil.Process]:
        """The processes that serve."""
        found = []
        for one in psutil.Process(self.child.pid).children():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                if "replicas.replica" in " ".join(one.cmdline()):
                    found.append(one)
        return found

    def terminate(self) -> None:
        self.child.send_signal(signal.SIGTERM)


@contextmanager
def fleet(
    directory: Path, packages: Sequence[Path], replicas: dict[str, Any], *, ready: bool = True, **options: Any
) -> Iterator[Fleet]:
    """Replicas on a free port; waits until they are ready. At the end nothing of it runs."""
    program = (
        "import sys, msgspec; from tidemill.realtime import ServeOptions, serve; "
        "serve(sys.argv[2:], msgspec.json.decode(sys.argv[1], type=ServeOptions))"
    )
    log_file = directory / "server.log"
    given = json.dumps({"port": 0, "lame_duck": 0.3, "replicas": replicas, **options})
    with open(log_file, "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", program, given, *map(str, packages)], stderr=log, env=os.environ
        )
    found = Fleet(child, log_file)
    try:
        if ready:
            eventually(lambda: child.poll() is not None or any("replicas" in one for one in found.events("ready")))
            assert child.poll() is None, found.text
            found.address = found.events("listening")[0]["address"]
        yield found
    finally:
        mine = [] if child.poll() is not None else psutil.Process(child.pid).children(recursive=True)
        if child.poll() is None:
            child.kill()
        child.wait(PATIENCE)
        for one in mine:
            with suppress(psutil.NoSuchProcess):
                one.kill()


class Callers:
    """Clients that ask without pause, each on its kept connection; every request has a mark and an outcome."""

    def __init__(
        self, address: str, many: int, seconds: float = 0.0, path: str = PATH, first: int = 0, kept: bool = True
    ) -> None:
        """Caller i marks its requests from (first + i) millions on; each on a connection of its own unless `kept`."""
        self.answered: Counter[int] = Counter()
        """Answers by the process that gave them."""
        self.refused = 0
        """Answers of 429, after which a caller waits as long as it is told to."""
        self.lost: list[str] = []
        self.sent = 0
        self.enough = threading.Event()
        self._address, self._seconds, self._path = address, seconds, path
        self._headers = {} if kept else {"connection": "close"}
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(first + i,), daemon=True) for i in range(many)]
        for thread in self._threads:
            thread.start()

    @property
    def total(self) -> int:
        with self._lock:
            return sum(self.answered.values())

    def _run(self, number: int) -> None:
        mark = number * 1_000_000
        while not self.enough.is_set():
            connection = http.client.HTTPConnection(self._address, timeout=PATIENCE)
            try:
                connection.connect()
            except OSError:
                # It has stopped accepting.
                self.enough.wait(0.05)
                continue
            try:
                while not self.enough.is_set():
                    mark += 1
                    with self._lock:
                        self.sent += 1
                    connection.request("POST", self._path, body(mark, self._seconds), self._headers)
                    answer = connection.getresponse()
                    content = answer.read()
                    self._note(mark, answer.status, content)
                    if answer.status == 429:
                        self.enough.wait(float(answer.getheader("retry-after-ms", "1000")) / 1e3)
                    if answer.getheader("connection") == "close":
                        break
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    self.lost.append(repr(error))
            finally:
                connection.close()

    def _note(self, mark: int, status: int, content: bytes) -> None:
        with self._lock:
            if status == 429:
                self.refused += 1
                return
            if status != 200:
                self.lost.append(f"{status} {content!r}")
                return
            outputs = {one["name"]: one["data"] for one in json.loads(content)["outputs"]}
            assert outputs["mark"] == [mark]
            self.answered[outputs["pid"][0]] += 1

    def finish(self) -> None:
        """Stop asking; every request sent has its outcome then."""
        self.enough.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert self.sent == sum(self.answered.values()) + self.refused + len(self.lost)

    def go_on(self, many: int = 50) -> None:
        """Return after so many more answers."""
        least = self.total + many
        eventually(lambda: self.total >= least)


def ask(url: str, mark: int = 0, seconds: float = 0.0) -> httpx.Response:
    return httpx.post(f"{url}{PATH}", content=body(mark, seconds), timeout=PATIENCE)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def now() -> float:
    return time.monotonic()
