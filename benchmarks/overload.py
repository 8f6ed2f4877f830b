"""More load than there is capacity: what is still answered in time, how quickly the rest is refused, and what is after.

A model that takes 20 ms, waiting (8 calls at a time) or computing (one), is first asked for all it can give, then by
Poisson arrivals at half of that, at a multiple of it, and at half again. Every request is timed from the moment at
which it was planned to be sent, whatever the server does.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import process_time

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.machine import BIN, Bystanders, cores
from benchmarks.open_loop import PATIENCE_S, Client
from benchmarks.servers import Running, Server, free_port, started
from tidemill.packaging import PackageOptions, package_model

__all__ = ["Overload", "run"]

SLO_MS = 100.0
FACTORS = (1.5, 2.0, 3.0)
CONNECTIONS = 256
QUIET_S = 3.0
CHECK_S = 0.02
# Of so many answers in a row, all are good where the server is back to normal.
STREAK = 10

SOURCE = """
import hashlib
import time

import numpy as np


class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1])}
    thread_safe = True

    def load(self, directory):
        self.block = bytes(1 << 20)
        took = []
        for _ in range(20):
            began = time.perf_counter()
            hashlib.sha256(self.block).digest()
            took.append(time.perf_counter() - began)
        self.times = round(0.02 / sorted(took)[len(took) // 2])

    def predict(self, rows):
        WORK
        return {"y": rows["x"]}
"""
WAITING = "time.sleep(0.02)"
COMPUTING = "for _ in range(self.times): hashlib.sha256(self.block).digest()"
MODELS = {"waiting": (WAITING, 8), "computing": (COMPUTING, 1)}


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Rates are a second; `goodput` are answers within the SLO; times are ms, `recovery` seconds until answers
    are good again after the load fell to half.
    """

    model: str
    factor: float
    peak: float
    goodput: float
    answered_p99: float
    refused: int
    refusal_p99: float
    late: int
    quiet_p99: float
    recovery: float
    lag: float
    others: float

    @property
    def failures(self) -> list[str]:
        """Which of the goals are missed."""
        goals = {
            f"goodput {self.goodput / self.peak:.1%} of the peak, 95 % wanted": self.goodput >= 0.95 * self.peak,
            f"answers within {self.answered_p99:.1f} ms at p99, {SLO_MS:g} wanted": self.answered_p99 <= SLO_MS,
            f"refusals within {self.refusal_p99:.2f} ms at p99, 2 wanted": self.refusal_p99 <= 2,
            f"normal after {self.recovery:.2f} s, 1 wanted": self.recovery <= 1,
        }
        return [goal for goal, met in goals.items() if not met]


def run(out: Path, seconds: int) -> list[Overload]:
    """Overload both models, `seconds` at each factor, and print what came of it."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    places = cores()
    mine = os.sched_getaffinity(0)
    body = orjson.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}]})
    for name, (work, workers) in MODELS.items():
        server = _server(out, name, work, workers, body)
        with started(server, places.server, [body], out / "logs") as running:
            os.sched_setaffinity(0, {places.client})
            try:
                peak = _peak(running, body, workers)
                print(f"\n{name}: at most {peak:.1f} answers a second", flush=True)
                for factor in FACTORS:
                    found.append(_overload(running, body, name, factor, peak, float(seconds)))
                    _say(found[-1])
            finally:
                os.sched_setaffinity(0, mine)
    return found


def _server(out: Path, name: str, work: str, workers: int, body: bytes) -> Server:
    source = out / f"{name}.py"
    source.write_text(SOURCE.replace("WORK", work))
    options = PackageOptions(name=name, overwrite=True, rows_independent=False, p99_ms=SLO_MS)
    package_model(source, out / name, options)
    port = free_port()
    command: list[str | Path] = [BIN / "tidemill", "serve", out / name, "--port", str(port), "--workers", str(workers)]

    def right(_: bytes, answer: bytes) -> bool:
        return bool(orjson.loads(answer)["outputs"][0]["data"] == [1.5])

    return Server(name, name, command, port, f"/v2/models/{name}/infer", right, ready="/v2/health/ready")


def _peak(running: Running, body: bytes, workers: int) -> float:
    """Answers a second when two callers a worker ask again as soon as they are answered."""
    client = Client(running.server.port, running.server.path, [body], 2 * workers)
    client.play([0.0] * round(workers / CHECK_S * 0.5), PATIENCE_S)
    played = client.play([0.0] * round(workers / CHECK_S * QUIET_S), 3 * QUIET_S)
    client.close()
    return float((np.asarray(played.statuses) == 200).sum() / played.elapsed)


def _overload(running: Running, body: bytes, name: str, factor: float, peak: float, seconds: float) -> Overload:
    client = Client(running.server.port, running.server.path, [body], CONNECTIONS)
    rng = np.random.default_rng(round(10 * factor))
    begin, end = QUIET_S, QUIET_S + seconds
    planned = np.concatenate(
        [
            _poisson(rng, 0.5 * peak, 0.0, begin),
            _poisson(rng, factor * peak, begin, end),
            _poisson(rng, 0.5 * peak, end, end + QUIET_S),
        ]
    )
    bystanders, cpu = Bystanders(), running.cpu_seconds() + process_time()
    played = client.play(planned.tolist(), end + QUIET_S + PATIENCE_S)
    bystanders.ours(running.cpu_seconds() + process_time() - cpu)
    client.close()
    at, took, status = (np.asarray(a) for a in (played.planned, played.took, played.statuses))
    ok, refused = status == 200, (status == 429) | (status == 503)
    good = ok & (took <= SLO_MS / 1e3)
    during, ended = (at >= begin) & (at < end), at + took
    return Overload(
        model=name,
        factor=factor,
        peak=peak,
        goodput=float((good & (ended >= begin) & (ended < end)).sum() / seconds),
        answered_p99=_p99(took[ok & during]),
        refused=int((refused & during).sum()),
        refusal_p99=_p99(took[refused & during]),
        late=int((~ok & ~refused).sum()) + len(planned) - len(at),
        quiet_p99=_p99(took[ok & (at < begin)]),
        recovery=_recovery(at - end, good),
        lag=_p99(np.asarray(played.lags)),
        others=bystanders.share(),
    )


def _poisson(rng: np.random.Generator, rate: float, begin: float, end: float) -> NDArray[np.float64]:
    moments = begin + np.cumsum(rng.exponential(1 / rate, int((end - begin) * rate * 1.5) + 50))
    return moments[moments < end]


def _recovery(at: NDArray[np.float64], good: NDArray[np.bool_]) -> float:
    """Seconds from the end of the overload to the first of `STREAK` requests in a row that all were answered well."""
    order = np.argsort(at)
    at, good = at[order], good[order]
    at, good = at[at >= 0], good[at >= 0]
    for i in range(len(at) - STREAK):
        if good[i : i + STREAK].all():
            return float(at[i])
    return float("inf")


def _p99(seconds: NDArray[np.float64]) -> float:
    return float(np.percentile(seconds, 99) * 1e3) if len(seconds) else 0.0


def _say(one: Overload) -> None:
    print(
        f"  {one.factor:g} times that: goodput {one.goodput:.1f}/s, {one.goodput / one.peak:.1%} of the peak; answered "
        f"within {one.answered_p99:.1f} ms at p99 ({one.quiet_p99:.1f} at half the load); {one.refused} refused, "
        f"within {one.refusal_p99:.2f} ms at p99; {one.late} late or lost; normal after {one.recovery:.2f} s "
        f"(client late by {one.lag:.2f} ms at p99; others used {one.others:.0%} of the machine)",
        flush=True,
    )
    for failure in one.failures:
        print(f"    MISSED: {failure}", flush=True)
