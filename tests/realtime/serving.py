"""A whole server for a test: in a thread of this process, or as a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvloop

from tidemill.realtime import ServeOptions, Server

PATIENCE = 60.0


class Served:
    """A server in a thread, and a client of it."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.address = server.address
        self.port = server.http.port
        self.client = httpx.Client(base_url=f"http://{server.address}", timeout=PATIENCE)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if isinstance(body, bytes):
            return self.client.post(path, content=body, **options)
        return self.client.post(path, json=body, **options)

    def infer(self, model: str, **body: Any) -> httpx.Response:
        return self.post(f"/v2/models/{model}/infer", body)

    def in_loop(self, function: Callable[[], Any]) -> Any:
        """Run in the event loop's thread and wait for the result."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def counters(self, model: str) -> dict[str, Any]:
        return self.get(f"/v2/models/{model}/stats").json()["model_stats"][0]


@contextmanager
def served(packages: Sequence[Path], options: ServeOptions | None = None) -> Iterator[Served]:
    """Serve packages on a free port until the block ends."""
    ready: Future[Served] = Future()
    stop: list[asyncio.Event] = []

    async def run() -> None:
        try:
            server = Server(options or ServeOptions(port=0, lame_duck=0.0, grace=5.0))
            await server.listen()
            await server.load(packages)
            stop.append(asyncio.Event())
            ready.set_result(Served(server, asyncio.get_running_loop()))
        except Exception as error:  # noqa: BLE001 - the test's own thread raises it
            ready.set_exception(error)
            return
        await stop[0].wait()
        await server.drain()

    def thread() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())

    worker = threading.Thread(target=thread)
    worker.start()
    found = ready.result(PATIENCE)
    try:
        yield found
    finally:
        found.client.close()
        found.loop.call_soon_threadsafe(stop[0].set)
        worker.join(PATIENCE)
        assert not worker.is_alive()


class Process:
    """A server process. `log` is what it wrote to stderr until now, as objects."""

    def __init__(self, child: "subprocess.Popen[bytes]", address: str, log_file: Path) -> None:
        self.child = child
        self.address = address
        self.url = f"http://{address}"
        self._log_file = log_file

    @property
    def log(self) -> list[dict[str, Any]]:
        whole = [line for line in self._log_file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def terminate(self) -> None:
        self.child.send_signal(signal.SIGTERM)


@contextmanager
def process(directory: Path, packages: Sequence[Path], *, until: str = "ready", **options: Any) -> Iterator[Process]:
    """A server process on a free port; waits for the log line `until`. Killed at the end if it still runs."""
    program = (
        "import sys, msgspec; from tidemill.realtime import ServeOptions, serve; "
        "serve(sys.argv[2:], msgspec.json.decode(sys.argv[1], type=ServeOptions))"
    )
    log_file = directory / "server.log"
    given = json.dumps({"port": 0, **options})
    with open(log_file, "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", program, given, *map(str, packages)], stderr=log, env=os.environ
        )
    try:
        yield Process(child, _wait_for(child, log_file, until), log_file)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait(PATIENCE)


def _wait_for(child: "subprocess.Popen[bytes]", log_file: Path, event: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for line in log_file.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n") and line.startswith(b"{") and (found := json.loads(line))["event"] == event:
                return str(found["address"])
        if child.poll() is not None:
            raise AssertionError(f"the server ended with {child.returncode}: {log_file.read_text()}")
        time.sleep(0.02)
    raise AssertionError(f"no {event!r} from the server: {log_file.read_text()}")
