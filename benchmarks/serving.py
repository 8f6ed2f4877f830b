"""Part `http`: requests per second and latency of `tidemill serve`, beside a raw echo and Granian's echo."""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks import model
from benchmarks.load import Load, wrk, wrk_path
from benchmarks.machine import ROOT, Cores, cores, pinned
from benchmarks.open_loop import OpenLoad
from benchmarks.servers import Running, granian_echo, is_compiled, raw_echo, started, tidemill

CONNECTIONS = (1, 16, 64, 512)
BODIES = 64
SHARES = (0.2, 0.4, 0.6, 0.8)
OPEN_CONNECTIONS = 256
# How much of its own highest rate the open-loop client is asked for: above, it measures itself.
CLIENT_SHARE = 0.7
SEED = 7


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how often. Seconds are whole: wrk knows no others."""

    rounds: int = 7
    seconds: int = 4
    connections: tuple[int, ...] = CONNECTIONS
    open_seconds: float = 8.0
    shares: tuple[float, ...] = SHARES


class OpenRun(msgspec.Struct, frozen=True, kw_only=True):
    """An open-loop run against one server. `share` is the wanted share of Tidemill's closed-loop peak."""

    server: str
    share: float
    load: OpenLoad


class HttpResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    settings: Settings
    cores: str
    granian: str
    loads: list[Load]
    open_runs: list[OpenRun]
    open_limit: float
    rss_mb: dict[str, float]
    request_bytes: int
    compiled: bool = False

    def of(self, server: str, connections: int) -> list[Load]:
        """The rounds of one server at one number of connections."""
        return [x for x in self.loads if (x.server, x.connections) == (server, connections)]

    def ratios(self, figure: str, other: str, connections: int) -> list[float]:
        """Tidemill's figure over the other server's, round by round."""
        pairs = zip(self.of("tidemill", connections), self.of(other, connections), strict=True)
        return [getattr(ours, figure) / max(getattr(theirs, figure), 1e-9) for ours, theirs in pairs]


def run(out: Path, settings: Settings) -> HttpResult:
    """Measure; files go below `out`."""
    wrk_path()
    places = cores()
    trained = model.make(out / "model")
    bodies = trained.bodies(BODIES)
    lines = out / "bodies.jsonl"
    lines.write_bytes(b"\n".join(bodies))
    logs = out / "logs"
    mode, tasks = _best_granian(lines, bodies, places, settings, logs)
    servers = [raw_echo(), granian_echo(mode, tasks), tidemill(trained, bodies)]
    servers += [tidemill(trained, bodies, interpreted=True)] if is_compiled() else []
    with ExitStack() as stack:
        running = [stack.enter_context(started(s, places.server, bodies, logs)) for s in servers]
        loads = _rounds(running, lines, places, settings)
        peak = max(
            statistics.median(x.per_second for x in loads if (x.server, x.connections) == ("tidemill", n))
            for n in settings.connections
        )
        by_key = {r.server.key: r for r in running}
        open_runs, limit = _open([by_key["raw_echo"], by_key["tidemill"]], lines, places, settings, peak)
        memory = {r.server.key: r.rss_mb() for r in running}
    return HttpResult(
        settings=settings,
        cores=f"server on core {places.server}, client on core {places.client}",
        granian=f"runtime mode {mode}, task implementation {tasks}",
        loads=loads,
        open_runs=open_runs,
        open_limit=limit,
        rss_mb=memory,
        request_bytes=len(bodies[0]),
        compiled=is_compiled(),
    )


def _rounds(running: list[Running], lines: Path, places: Cores, settings: Settings) -> list[Load]:
    """The servers in turn, A B C A B C, so that a slow minute of the machine meets all of them."""
    loads: list[Load] = []
    for one in running:
        wrk(one, lines, max(settings.connections), 1, places)
    for number in range(1, settings.rounds + 1):
        for connections in settings.connections:
            for one in running:
                load = wrk(one, lines, connections, settings.seconds, places, number)
                loads.append(load)
                _say(
                    f"round {number}/{settings.rounds}  {connections:>3} connections  {one.server.label:<15}"
                    f"{load.per_second:>9,.0f} req/s  p50 {load.p50:>6,} µs  p99 {load.p99:>6,} µs"
                    + (f"  {load.errors} errors" if load.errors else "")
                )
    return loads


def _best_granian(lines: Path, bodies: list[bytes], places: Cores, settings: Settings, logs: Path) -> tuple[str, str]:
    """The settings under which Granian echoes most requests a second at 64 connections."""
    found: dict[tuple[str, str], float] = {}
    for mode in ("st", "mt"):
        for tasks in ("asyncio", "rust"):
            with started(granian_echo(mode, tasks), places.server, bodies[:4], logs) as running:
                runs = [
                    wrk(running, lines, 64, min(2, settings.seconds), places) for _ in range(min(2, settings.rounds))
                ]
            found[mode, tasks] = max(run.per_second for run in runs)
            _say(f"Granian, runtime mode {mode}, tasks {tasks}: {found[mode, tasks]:,.0f} req/s")
    return max(found, key=lambda key: found[key])


def _open(
    running: list[Running], lines: Path, places: Cores, settings: Settings, peak: float
) -> tuple[list[OpenRun], float]:
    """Poisson arrivals at shares of Tidemill's peak, as far as the client can go."""
    limit = _open_load(running[0], lines, places, 1e6, 0.3).per_second
    _say(f"open-loop client: {limit:,.0f} req/s at most, against the raw echo")
    runs: list[OpenRun] = []
    for share in settings.shares:
        rate = min(share * peak, CLIENT_SHARE * limit)
        for one in running:
            load = _open_load(one, lines, places, rate, settings.open_seconds)
            runs.append(OpenRun(server=one.server.key, share=share, load=load))
            _say(
                f"open loop  {rate:>9,.0f} req/s  {one.server.label:<15}"
                f"p50 {load.p50:>7,.0f} µs  p99 {load.p99:>7,.0f} µs  client late by {load.lag:,.0f} µs"
                + (f"  {load.errors} errors" if load.errors else "")
            )
        if rate < share * peak:
            break
    return runs, limit


def _open_load(running: Running, lines: Path, places: Cores, rate: float, seconds: float) -> OpenLoad:
    server = running.server
    program: list[str | Path] = [sys.executable, "-m", "benchmarks.open_loop", str(server.port), server.path, lines]
    program += [str(rate), str(seconds), str(OPEN_CONNECTIONS), str(SEED)]
    done = subprocess.run(pinned(places.client, program), cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=OpenLoad)


def _say(line: str) -> None:
    print(f"  {line}", flush=True)
