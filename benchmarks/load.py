"""Closed-loop load: one wrk on the client's core, and what server and client spent meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import msgspec

from benchmarks.machine import ROOT, Bystanders, Cores, pinned
from benchmarks.servers import Running


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One run of wrk. Latencies are µs; `server_us` is the server's CPU time a request; busy is a share of a core."""

    server: str
    connections: int
    round: int
    requests: int
    per_second: float
    p50: int
    p90: int
    p99: int
    max: int
    non_2xx: int
    broken: int
    timeouts: int
    server_us: float
    server_busy: float
    client_busy: float
    others: float

    @property
    def errors(self) -> int:
        """Answers that were not 2xx, and requests without an answer."""
        return self.non_2xx + self.broken + self.timeouts


class _Printed(msgspec.Struct, frozen=True):
    requests: int
    us: int
    non_2xx: int
    broken: int
    timeouts: int
    p50: int
    p90: int
    p99: int
    max: int


def wrk(running: Running, bodies: Path, connections: int, seconds: int, cores: Cores, number: int = 0) -> Load:
    """Load the server from `connections` connections, each waiting for its answer before it asks again."""
    server = running.server
    command: list[str | Path] = [wrk_path(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", ROOT / "benchmarks/load.lua", server.url, "--", server.path, bodies]
    bystanders = Bystanders()
    cpu, clock = running.cpu_seconds(), time.perf_counter()
    with subprocess.Popen(pinned(cores.client, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    elapsed = time.perf_counter() - clock
    cpu = running.cpu_seconds() - cpu
    client = usage.ru_utime + usage.ru_stime
    if process.returncode:
        raise RuntimeError(f"wrk ended with {process.returncode}: {err.decode(errors='replace')}")
    bystanders.ours(cpu + client)
    found = msgspec.json.decode(out.splitlines()[-1], type=_Printed)
    return Load(
        server=server.key,
        connections=connections,
        round=number,
        requests=found.requests,
        per_second=found.requests / (found.us / 1e6),
        p50=found.p50,
        p90=found.p90,
        p99=found.p99,
        max=found.max,
        non_2xx=found.non_2xx,
        broken=found.broken,
        timeouts=found.timeouts,
        server_us=cpu / max(found.requests, 1) * 1e6,
        server_busy=cpu / elapsed,
        client_busy=client / elapsed,
        others=bystanders.share(),
    )


def wrk_path() -> str:
    """Where wrk is. Raises SystemExit with what to do if it is not installed."""
    path = shutil.which("wrk")
    if path is None:
        raise SystemExit("wrk is not installed: run `make setup-services` (Debian, Ubuntu: apt-get install wrk).")
    return path
