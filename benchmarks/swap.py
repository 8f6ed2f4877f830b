"""Models loaded, swapped and unloaded at 70 % of the capacity: does any request fail, and what becomes of the p99.

Two versions of one model take turns to answer (each loaded anew, verified and warmed up), while another model comes and
goes: a hundred such cycles, spread evenly. Slices of the load with and without them take turns, so that a slow minute
of the machine meets both, at the same moments of the same seeds; their p99 are compared.

The capacity is the highest rate of Poisson arrivals that this client and the server sustain: requests that wait for
their turn make batches, so that asking without pause would find a higher one, at which an open loop only queues.
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
from benchmarks.open_loop import PATIENCE_S, Client, OpenLoad, Played, poisson
from benchmarks.servers import Server, free_port, started
from tidemill.packaging import PackageOptions, package_model

__all__ = ["Swapped", "run"]

SHARE = 0.7
CONNECTIONS = 64
PEAK_REQUESTS = 40_000
CYCLES = 100
SLICE_S = 10
# What is sustained: answered within so many µs at p99. It is looked for from above.
SUSTAINED_US = 10_000.0
PROBE_S = 3.0
STEP, STEPS = 0.9, 20
GOAL = 1.1
SEED = 7


class Swapped(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: the load without and with changes, the cycles done meanwhile and the seconds each change took.
    `asked` is the rate without pause, `peak` the one that is sustained. `others` is the share of the machine's cores
    that went to neither the server nor the client.
    """

    asked: float
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
    quiet: list[Played] = []
    changing: list[Played] = []
    slices = max(1, seconds // SLICE_S)
    with started(server, places.server, bodies[:3], out / "logs") as running:
        os.sched_setaffinity(0, {places.client})
        try:
            client = Client(server.port, server.path, bodies, CONNECTIONS)
            asked, peak = _peak(client)
            rate = SHARE * peak
            bystanders, used = Bystanders(), running.cpu_seconds()
            changes = _Changes(server.port)
            for number in range(slices):
                planned = poisson(rate, SLICE_S, SEED + number)
                for taken in (quiet, changing):
                    until = round(CYCLES * (number + 1) / slices) if taken is changing else 0
                    doing = threading.Thread(target=changes.until, args=(until,))
                    doing.start()
                    taken.append(client.play(planned, SLICE_S + PATIENCE_S))
                    doing.join()
            bystanders.ours(running.cpu_seconds() - used)
            others = bystanders.share()
            client.close()
        finally:
            os.sched_setaffinity(0, mine)
    found = Swapped(
        asked=asked,
        peak=peak,
        quiet=client.told(rate, quiet),
        changing=client.told(rate, changing),
        cycles=changes.cycles,
        change_seconds=changes.seconds / max(1, 4 * changes.cycles),
        others=others,
    )
    _say(found)
    return found


def _peak(client: Client) -> tuple[float, float]:
    """Answers a second without pause, and the highest rate of those tried that is sustained."""
    played = client.play([0.0] * PEAK_REQUESTS, 60.0)
    asked = peak = len(played.took) / played.elapsed
    for number in range(STEPS):
        load = client.run(peak, PROBE_S, SEED + number)
        if not load.errors and load.p99 <= SUSTAINED_US:
            return asked, peak
        peak *= STEP
    raise SystemExit(
        f"the machine is too busy: not even {peak:.0f} requests a second are answered within {SUSTAINED_US:g} µs at p99"
    )


class _Changes:
    """Cycles of changes: another version, another model, and it gone again."""

    def __init__(self, port: int) -> None:
        self.cycles = 0
        self.seconds = 0.0
        self._port = port

    def until(self, cycles: int) -> None:
        """As many as are missing, spread evenly over a slice; those that take longer follow at once."""
        missing, began = cycles - self.cycles, time.monotonic()
        for number in range(missing):
            time.sleep(max(0.0, began + SLICE_S * number / missing - time.monotonic()))
            self._cycle()

    def _cycle(self) -> None:
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
    print(f"{found.asked:.0f}/s without pause, {found.peak:.0f}/s sustained, {SHARE:.0%} of that asked for")
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
