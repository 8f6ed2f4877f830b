"""The report's section on peers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.against import LARGE, LARGE_CONNECTIONS, Peer, PeersResult
from benchmarks.tables import met, spread, table

__all__ = ["goals", "section"]

GOAL = 2.0
AT = 64


def goals(result: PeersResult) -> list[Sequence[str]]:
    """Against the best of all peers and settings, at 64 connections and for large bodies."""
    if not result.measured:
        return []
    best = min(result.measured, key=lambda p: statistics.median(p.ratio("per_second", AT)))
    ratio = statistics.median(best.ratio("per_second", AT))
    slower = max(statistics.median(p.ratio("p99", AT)) for p in result.measured)
    rows: list[Sequence[str]] = [
        (
            f"requests/s over the best peer's ({best.label}), {AT} connections",
            f"{ratio:.1f}",
            f"≥ {GOAL:.0f}",
            met(ratio >= GOAL),
        ),
        (f"p99 over the lowest of a peer, {AT} connections", f"{slower:.2f}", "< 1", met(slower < 1)),
    ]
    for size in LARGE:
        nearest = min(result.measured, key=lambda p: p.large_ratio(size))
        ratio = nearest.large_ratio(size)
        text = f"requests/s over the best peer's ({nearest.label}), bodies of {size}"
        rows.append((text, f"{ratio:.1f}", f"≥ {GOAL:.0f}", met(ratio >= GOAL)))
    return rows


def section(result: PeersResult) -> str:
    """The tables of all peers."""
    connections = result.settings.connections
    figures = [
        (
            peer.label,
            *(f"{_median(peer, n, 'per_second'):,.0f}" for n in connections),
            *(f"{_median(peer, n, 'p99'):,.0f}" for n in connections),
            f"{sum(x.errors for x in peer.loads):,}",
        )
        for peer in result.measured
    ]
    ratios = [
        (
            peer.label,
            *(spread(peer.ratio("per_second", n), ".1f") for n in connections),
            *(f"{peer.large_ratio(size):.1f}" for size in LARGE),
        )
        for peer in result.measured
    ]
    header = ("server", *(f"req/s, {n}" for n in connections), *(f"p99 µs, {n}" for n in connections), "errors")
    missing = "".join(f"\n\n{p.label} was not measured: {p.missing}" for p in result.peers if p.missing)
    return f"""## Peers

The same model, requests and core. "Default" is the way of each peer's own first page, "best" its own settings for
throughput as far as we found them (merged calls, one process, no typed models; `benchmarks/peers/`). Triton is the
binary of the `nvidia-pytriton` wheel, which has no ONNX Runtime backend: its model runs ONNX Runtime in the Python
backend. Every server answered every request with ONNX Runtime's own values before it was timed. Each load of a peer was
followed by one of Tidemill ({result.settings.rounds} of {result.settings.seconds} s each); medians.

{table(header, figures)}

**Tidemill's requests/s over the peer's**, at {", ".join(map(str, connections))} connections; then large bodies at
{LARGE_CONNECTIONS} connections.

{table(("server", *map(str, connections), *LARGE), ratios)}{missing}

This part alone: `python -m benchmarks peers`."""


def _median(peer: Peer, connections: int, figure: str) -> float:
    return statistics.median(getattr(x, figure) for x in peer.loads if x.connections == connections)
