"""`make soak`: mixed load at 70 % of the capacity while models change. Is any request lost? Does memory grow?

One process and then two replicas are soaked: every request sent must have exactly the outcome that it should, by the
clients' count and by the server's, and the sum of the processes' PSS must not grow. At the end a model that keeps a
little of what it gets is swapped in: the same load and the same measurement must find that.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import orjson
import uvloop

from benchmarks import model
from benchmarks.machine import BIN, Bystanders, cores
from benchmarks.memory import Memory, Sample, family, growth
from benchmarks.servers import Server, free_port, started
from benchmarks.soak_clients import Clients, Tally, Traffic
from benchmarks.soak_requests import ECHO, TREES, bad, echoes, http_requests, trees
from tidemill.model.manifest import Manifest, RuntimeSpec, Slo
from tidemill.model.package import write_package
from tidemill.model.signature import Input, Output
from tidemill.packaging import PackageOptions, package_model

__all__ = ["LEAK", "MOST_GROWTH", "Leak", "Soaked", "run"]

SHARE = 0.7
# MB a minute: more than this is a leak, and what the planted one keeps.
MOST_GROWTH = 1.0
LEAK = 3.0
WORKERS = 16
REQUESTS = 300
SEED = 20261124
# Of the soaked time: what is asked without pause before it for each process, so that memory reaches its level sooner (a
# process of glibc needs some ten thousand requests of every size, and replicas have only their share of them), what it
# has left for that, and what the planted leak runs for.
FIRST = 0.2
WARM_UP = 0.4
LEAKING = 0.3
LEAK_SETTLES = 0.25
CAPACITY_S = 10.0
CHANGE_EVERY_S = 1.5

KEEPS = """
import time


class Model:
    inputs = {"x": ("FP64", [-1, -1])}
    outputs = {"y": ("FP64", [-1, -1])}

    def load(self, directory):
        self.kept, self.bytes, self.began = [], 0, time.monotonic()

    def predict(self, rows):
        x = rows["x"]
        if self.bytes < RATE * (time.monotonic() - self.began):
            self.kept.append(x.copy())
            self.bytes += x.nbytes
        return {"y": x}
"""


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of the planted leak, MB a minute."""

    planted: float
    found: float
    samples: list[Sample]


class Soaked(msgspec.Struct, frozen=True, kw_only=True):
    """One server's minutes. `capacity` and `rate` are exchanges a second; `samples` seconds and MB."""

    name: str
    processes: int
    seconds: float
    capacity: float
    rate: float
    server_busy: float
    others: float
    sent: dict[str, int]
    answered: dict[str, int]
    left: dict[str, int]
    failed: dict[str, int]
    missing: int
    failures: list[str]
    counted: dict[str, int]
    changes: int
    errors_logged: list[str]
    warm_up: float
    growth: float
    samples: list[Sample]
    files: tuple[int, int]
    leak: Leak | None = None

    @property
    def faults(self) -> list[str]:
        """What should not be."""
        sent, left, failed = (sum(one.values()) for one in (self.sent, self.left, self.failed))
        counted = sum(self.counted.values())
        ok = sum(self.answered[kind] for kind in self.answered if not kind.startswith("bad"))
        judged = {
            f"{failed} requests failed": failed == 0,
            f"{self.missing} requests have no outcome": self.missing == 0,
            f"{len(self.errors_logged)} errors in the log": not self.errors_logged,
            f"the server counted {counted} requests of {sent}, of which {left} left": sent - left <= counted <= sent,
            f"the server counted {self.counted.get('ok', 0)} answers of at least {ok}": self.counted.get("ok", 0) >= ok,
            f"memory grew by {self.growth:.2f} MB a minute": self.growth < MOST_GROWTH,
            "the planted leak was not found": self.leak is None or self.leak.found >= MOST_GROWTH,
        }
        return [fault for fault, well in judged.items() if not well]


def run(out: Path, seconds: int) -> list[Soaked]:
    """One process, then two replicas, `seconds` each, and print what came of them."""
    made = model.make(out / "model")
    random = Random(SEED)
    tensors = [*trees(made, REQUESTS, random), *echoes(REQUESTS, random)]
    traffic = Traffic(tensors, http_requests(tensors, random), bad(random))
    found = []
    for name, replicas in (("one process", 0), ("two replicas", 2)):
        soaked = uvloop.run(_soak(out, name, replicas, made, traffic, float(seconds)))
        found.append(soaked)
        _say(soaked)
    return found


async def _soak(out: Path, name: str, replicas: int, made: model.Model, traffic: Traffic, seconds: float) -> Soaked:
    root = out / "repository"
    _repository(root, made)
    management = free_port()
    server = _server(out, replicas, management)
    with started(server, cores().both, [], out / "logs") as running:
        async with asyncio.TaskGroup() as group:
            clients = Clients(server.port, traffic, WORKERS, SEED)
            await clients.rate(FIRST * seconds * max(1, replicas))
            running.check([])
            used, began = running.cpu_seconds(), time.monotonic()
            capacity = await clients.rate(CAPACITY_S)
            busy = (running.cpu_seconds() - used) / (time.monotonic() - began)
            clients.pace.rate = SHARE * capacity
            bystanders, used = Bystanders(), running.cpu_seconds()
            changes = _Changes(server.port)
            changing = group.create_task(changes.run())
            memory = Memory(running.process.pid)
            files = _open_files(running.process.pid)
            rate = await clients.rate(seconds)
            files = (files, _open_files(running.process.pid))
            bystanders.ours(running.cpu_seconds() - used)
            others, until = bystanders.share(), memory.now()
            leak = await _leak(root, changes, memory, seconds * LEAKING) if not replicas else None
            memory.stop()
            changes.enough = True
            await changing
            await clients.finish()
        counted = await _counted(management, clients.tally)
        log = (out / "logs" / f"{server.key}.log").read_text()
    samples = [sample for sample in memory.samples if sample[0] <= until]
    tally = clients.tally
    return Soaked(
        name=name,
        processes=len(running._family),
        seconds=seconds,
        capacity=capacity,
        rate=rate,
        server_busy=busy,
        others=others,
        sent=tally.sent,
        answered=tally.answered,
        left=tally.left,
        failed=tally.failed,
        missing=tally.missing,
        failures=tally.failures,
        counted=counted,
        changes=changes.done,
        errors_logged=_errors(log),
        warm_up=seconds * WARM_UP,
        growth=growth([sample for sample in samples if sample[0] >= seconds * WARM_UP]),
        samples=samples,
        files=files,
        leak=leak,
    )


async def _leak(root: Path, changes: _Changes, memory: Memory, seconds: float) -> Leak:
    """Swap in a model that keeps what it gets, and see what is measured of it."""
    _keeps(root, "2", LEAK)
    await changes.ask(ECHO, "load", "2")
    began = memory.now()
    await asyncio.sleep(seconds)
    await changes.ask(ECHO, "load", "1")
    samples = [sample for sample in memory.samples if sample[0] >= began]
    settled = [sample for sample in samples if sample[0] >= began + LEAK_SETTLES * seconds]
    return Leak(planted=LEAK, found=growth(settled), samples=samples)


class _Changes:
    """Models that change, one after the other: another version, another model, and it gone again."""

    def __init__(self, port: int) -> None:
        self.done = 0
        self.enough = False
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    async def run(self) -> None:
        turns = ((TREES, "load", "2"), ("side", "load", "1"), (TREES, "load", "1"), ("side", "unload", None))
        async with self._client:
            while not self.enough:
                for name, action, version in turns:
                    await self.ask(name, action, version)
                    await asyncio.sleep(CHANGE_EVERY_S)

    async def ask(self, name: str, action: str, version: str | None) -> None:
        """One change. Raises RuntimeError if it is not made."""
        config = orjson.dumps({"version_policy": {"specific": {"versions": [version]}}}).decode()
        body = {"parameters": {"config": config}} if version else {}
        answer = await self._client.post(f"/v2/repository/models/{name}/{action}", json=body)
        if answer.status_code != 200:
            raise RuntimeError(f"{action} of {name}: {answer.status_code} {answer.text}")
        self.done += 1


def _repository(root: Path, made: model.Model) -> None:
    for name, version in ((TREES, "1"), (TREES, "2"), ("side", "1")):
        # What is refused under load would be a fault here: the machine may be busy with other things.
        options = PackageOptions(
            name=name, version=version, overwrite=True, columns=tuple(made.names), p99_ms=20_000.0, timeout_ms=30_000.0
        )
        package_model(made.onnx, root / name / version, options)
    _keeps(root, "1", 0.0)


def _keeps(root: Path, version: str, rate: float) -> None:
    """A model that gives back what it gets, and keeps so many MB a minute of it."""
    manifest = Manifest(
        format=1,
        name=ECHO,
        version=version,
        runtime=RuntimeSpec(name="python", artifact="model.py"),
        inputs=(Input(name="x", datatype="FP64", shape=(-1, -1)),),
        outputs=(Output(name="y", datatype="FP64", shape=(-1, -1)),),
        slo=Slo(p99_ms=20_000.0, timeout_ms=30_000.0),
    )

    def fill(stage: Path) -> None:
        (stage / "model.py").write_text(KEEPS.replace("RATE", repr(rate * 1e6 / 60)))

    write_package(
        root / ECHO / version,
        manifest,
        fill,
        overwrite=True,
    )


def _server(out: Path, replicas: int, management: int) -> Server:
    port = free_port()
    config = out / "soak.toml"
    lines = [
        f'port = {port}\nmodel_control = "explicit"',
        f'[repository]\ndirectory = "repository"\nload = ["{TREES}", "{ECHO}"]',
        f'[endpoints.{ECHO}]\nversions = ["1"]',
        f"[management]\nport = {management}",
    ]
    if replicas:
        lines.append(f'[replicas]\nminimum = {replicas}\nbalancer = "socket"')
    config.write_text("\n".join(lines) + "\n")
    command: list[str | Path] = [BIN / "tidemill", "serve", config]
    return Server(f"soak-{replicas}", "tidemill serve", command, port, "/", lambda _, __: True, "/v2/health/ready")


async def _counted(management: int, tally: Tally) -> dict[str, int]:
    """What the server says became of all requests, by outcome; errors that reached no model are `http STATUS`.

    Waits a moment for the last to be counted.
    """
    counted: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{management}", trust_env=False) as client:
        for _ in range(50):
            counted = _read_counts((await client.get("/metrics")).text)
            if counted.total() >= tally.sent.total():
                break
            await asyncio.sleep(0.1)
    return dict(counted)


def _read_counts(page: str) -> Counter[str]:
    counted: Counter[str] = Counter()
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        labels = dict(part.split("=", 1) for part in name.partition("{")[2].rstrip("}").split(",") if part)
        if name.startswith("tidemill_requests_total{"):
            counted[labels["outcome"].strip('"')] += int(float(value))
        elif name.startswith("tidemill_http_errors_total{"):
            counted["http " + labels["status"].strip('"')] += int(float(value))
    return +counted


def _errors(log: str) -> list[str]:
    lines = [orjson.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [orjson.dumps(line).decode() for line in lines if line["level"] in ("error", "critical")]


def _open_files(pid: int) -> int:
    found = 0
    for one in family(pid):
        with suppress(OSError):
            found += len(os.listdir(f"/proc/{one}/fd"))
    return found


def _say(found: Soaked) -> None:
    totals: dict[str, Any] = {
        name: sum(getattr(found, name).values()) for name in ("sent", "answered", "left", "failed", "counted")
    }
    print(
        f"{found.name}: {totals}, {found.changes} changes, {found.growth:+.2f} MB a minute"
        + (f", planted {found.leak.planted:g}: {found.leak.found:+.2f}" if found.leak else "")
        + f"; {'; '.join(found.faults) or 'all goals met'}",
        flush=True,
    )
    for failure in (*found.failures[:5], *found.errors_logged[:5]):
        print(f"  {failure}", flush=True)
