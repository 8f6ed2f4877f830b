"""Models loaded, swapped and unloaded at 70 % of the capacity: does any request fail, and what becomes of the p99.

Two versions of one model take turns to answer (each loaded anew, verified and warmed up), while another model comes and
goes. The load is the same, in the same moments, without any of that: the two p99 are compared.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec
import orjson

from benchmarks import model
from benchmarks.machine import BIN, Bystanders, cores
from benchmarks.open_loop import Client, OpenLoad
from benchmarks.servers import Server, free_port, started
from tidemill.packaging import PackageOptions, package_model

__all__ = ["Swapped", "run"]

SHARE = 0.7
CONNECTIONS = 64
PEAK_REQUESTS = 40_000
GOAL = 1.1
SEED = 7


class Swapped(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: the load without and with changes, the cycles done meanwhile and the seconds each change took.
    `others` is the share of the machine's cores that went to neither the server nor the client.
    """

    peak: float
    quiet: OpenLoad
    changing: OpenLoad
    cycles: int
    change_seconds: float
    others: float

    @property
    def failures(self) -> list[str]:
        """Which of the goals are missed."""
        ratio = self.changing.p99 / self.quiet.p99
        goals = {
            f"{self.changing.errors} requests failed, 0 wanted": self.changing.errors == 0,
            f"p99 {ratio:.2f} times the quiet one, {GOAL:g} wanted": ratio <= GOAL,
        }
        return [goal for goal, met in goals.items() if not met]


def run(out: Path, seconds: int) -> Swapped:
    """Both loads, `seconds` each, and print what came of them."""
    made = model.make(out)
    bodies = made.bodies(200)
    server = _server(out, made)
    places, mine = cores(), os.sched_getaffinity(0)
    with started(server, places.server, bodies[:3], out / "logs") as running:
        os.sched_setaffinity(0, {places.client})
        try:
            client = Client(server.port, server.path, bodies, CONNECTIONS)
            played = client.play([0.0] * PEAK_REQUESTS, 60.0)
            peak = len(played.took) / played.elapsed
            client.run(SHARE * peak, 1.0, SEED + 1)
            bystanders, used = Bystanders(), running.cpu_seconds()
            quiet = client.run(SHARE * peak, float(seconds), SEED)
            changes = _Changes(server.port, time.monotonic() + seconds)
            changing = client.run(SHARE * peak, float(seconds), SEED)
            changes.join()
            bystanders.ours(running.cpu_seconds() - used)
            others = bystanders.share()
            client.close()
        finally:
            os.sched_setaffinity(0, mine)
    found = Swapped(
        peak=peak,
        quiet=quiet,
        changing=changing,
        cycles=changes.cycles,
        change_seconds=changes.seconds / max(1, 4 * changes.cycles),
        others=others,
    )
    _say(found)
    return found


class _Changes(threading.Thread):
    """Cycles of changes until a moment: another version, another model, and it gone again."""

    def __init__(self, port: int, until: float) -> None:
        super().__init__()
        self.cycles = 0
        self.seconds = 0.0
        self._port = port
        self._until = until
        self.start()

    def run(self) -> None:
        while time.monotonic() < self._until:
            began = time.monotonic()
            for version in (2, 1):
                self._ask(model.NAME, "load", {"version_policy": {"specific": {"versions": [version]}}})
            self._ask("side", "load", {"version_policy": {"latest": {}}})
            self._ask("side", "unload")
            self.seconds += time.monotonic() - began
            self.cycles += 1

    def _ask(self, name: str, action: str, config: dict[str, object] | None = None) -> None:
        body = orjson.dumps({"parameters": {"config": orjson.dumps(config).decode()}}) if config else b""
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
            connection.request("POST", f"/v2/repository/models/{name}/{action}", body)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{action} of {name}: {answer.status} {said!r}")


def _server(out: Path, made: model.Model) -> Server:
    root = out / "repository"
    for name, version in ((model.NAME, "1"), (model.NAME, "2"), ("side", "1")):
        options = PackageOptions(name=name, version=version, overwrite=True, columns=tuple(made.names))
        package_model(made.onnx, root / name / version, options)
    port = free_port()
    config = out / "server.toml"
    config.write_text(
        f'port = {port}\nmodel_control = "explicit"\n[repository]\ndirectory = "repository"\nload = ["{model.NAME}"]\n'
    )
    command: list[str | Path] = [BIN / "tidemill", "serve", config]
    return Server("swap", "tidemill serve", command, port, made.path, lambda _, __: True, ready="/v2/health/ready")


def _say(found: Swapped) -> None:
    for name, load in (("quiet", found.quiet), ("changing", found.changing)):
        print(
            f"{name:9} {load.rate:8.0f}/s  p50 {load.p50:6.0f} µs  p99 {load.p99:6.0f} µs  p99.9 {load.p999:7.0f} µs  "
            f"max {load.max:7.0f} µs  errors {load.errors}  client's lag {load.lag:.0f} µs"
        )
    print(
        f"{found.cycles} cycles, {found.change_seconds:.2f} s a change; others took {found.others:.0%} of the machine; "
        + ("; ".join(found.failures) or "both goals met"),
        flush=True,
    )
