"""Part `peers`: the same model and the same requests on other servers, each in its default and its best settings."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import msgspec

from benchmarks import model
from benchmarks.load import Load, wrk, wrk_path
from benchmarks.machine import Cores, cores
from benchmarks.peers.commands import PEERS, peer
from benchmarks.peers.environments import Missing
from benchmarks.servers import Running, Server, started, tidemill

__all__ = ["PeersResult", "Settings", "run"]

CONNECTIONS = (1, 16, 64, 512)
BODIES = 64
# Rows of 30 numbers: about 1,000 and 100,000 numbers in a body. Few bodies, for they are large.
LARGE = {"1,000 numbers": 33, "100,000 numbers": 3334}
LARGE_BODIES = 4
LARGE_CONNECTIONS = 16


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how often each server is asked at each number of connections. Peers differ by factors: one round
    tells them apart.
    """

    rounds: int = 1
    seconds: int = 2
    connections: tuple[int, ...] = CONNECTIONS


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One server in one of its settings: its loads, and Tidemill's taken in turn with them."""

    name: str
    label: str
    loads: list[Load] = []
    ours: list[Load] = []
    large: dict[str, list[Load]] = {}
    ours_large: dict[str, list[Load]] = {}
    missing: str = ""

    def ratio(self, figure: str, connections: int) -> list[float]:
        """Tidemill's figure over the peer's, round by round."""
        theirs = [x for x in self.loads if x.connections == connections]
        ours = [x for x in self.ours if x.connections == connections]
        return [getattr(a, figure) / max(getattr(b, figure), 1e-9) for a, b in zip(ours, theirs, strict=True)]

    def large_ratio(self, size: str) -> float:
        """Tidemill's requests/s over the peer's, for large bodies."""
        middle = [statistics.median(x.per_second for x in of[size]) for of in (self.ours_large, self.large)]
        return middle[0] / max(middle[1], 1e-9)


class PeersResult(msgspec.Struct, frozen=True, kw_only=True):
    """All peers that could be had."""

    settings: Settings
    peers: list[Peer]

    @property
    def measured(self) -> list[Peer]:
        """Those that ran."""
        return [p for p in self.peers if not p.missing]


def run(out: Path, settings: Settings) -> PeersResult:
    """Measure each peer in turn with Tidemill on the same core; files go below `out`."""
    wrk_path()
    trained = model.make(out / "model")
    one = trained.bodies(BODIES)
    large = {size: trained.bodies(LARGE_BODIES, rows) for size, rows in LARGE.items()}
    files = {"": _lines(out / "bodies.jsonl", one)}
    files |= {size: _lines(out / f"bodies-{rows}.jsonl", large[size]) for size, rows in LARGE.items()}
    every = one + [body for bodies in large.values() for body in bodies]
    found: list[Peer] = []
    ours = tidemill(trained, every)
    with started(ours, cores().server, every, out / "logs") as running:
        for name, (label, _) in PEERS.items():
            for best in (False, True):
                try:
                    server = peer(name, best, trained, every, out / "peers")
                except Missing as error:
                    print(f"  {label} cannot be measured: {error}", flush=True)
                    found.append(Peer(name=name, label=label, missing=str(error)))
                    break
                found.append(_measure(server, name, every, files, running, out, settings))
    return PeersResult(settings=settings, peers=found)


def _measure(
    server: Server,
    name: str,
    bodies: list[bytes],
    files: dict[str, Path],
    ours: Running,
    out: Path,
    settings: Settings,
) -> Peer:
    places: Cores = cores()
    peers: list[Load] = []
    mine: list[Load] = []
    large: dict[str, list[Load]] = {}
    mine_large: dict[str, list[Load]] = {}
    with started(server, places.server, bodies, out / "logs") as running:
        wrk(running, files[""], 16, 2, places)
        for number in range(1, settings.rounds + 1):
            for connections in settings.connections:
                peers.append(wrk(running, files[""], connections, settings.seconds, places, number))
                mine.append(wrk(ours, files[""], connections, settings.seconds, places, number))
                _say(server, connections, peers[-1], mine[-1])
            for size in LARGE:
                large.setdefault(size, []).append(
                    wrk(running, files[size], LARGE_CONNECTIONS, settings.seconds, places, number)
                )
                mine_large.setdefault(size, []).append(
                    wrk(ours, files[size], LARGE_CONNECTIONS, settings.seconds, places, number)
                )
                _say(server, size, large[size][-1], mine_large[size][-1])
    return Peer(name=name, label=server.label, loads=peers, ours=mine, large=large, ours_large=mine_large)


def _lines(path: Path, bodies: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(bodies))
    return path


def _over(ours: Load, theirs: Load) -> float:
    """A peer may answer nothing at all in the time."""
    return ours.per_second / theirs.per_second if theirs.per_second else math.inf


def _say(server: Server, what: object, theirs: Load, ours: Load) -> None:
    print(
        f"  {server.label:<32}{what!s:>16}{theirs.per_second:>9,.0f} req/s p99 {theirs.p99:>8,} µs   "
        f"Tidemill {ours.per_second:>9,.0f} req/s p99 {ours.p99:>7,} µs  ({_over(ours, theirs):.1f} x)"
        + (f"  {theirs.errors} errors" if theirs.errors else ""),
        flush=True,
    )
