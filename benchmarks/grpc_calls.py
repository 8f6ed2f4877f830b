"""Part `grpc`: calls per second of `tidemill serve` over gRPC, beside its own REST and a bare `grpcio` asyncio echo."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import orjson

from benchmarks import model
from benchmarks.load import Load, wrk
from benchmarks.machine import ROOT, Bystanders, Cores, cores, pinned
from benchmarks.servers import STOP_S, Running, Server, WrongAnswerError, free_port, started, tidemill
from benchmarks.tables import met, spread, table
from tidemill.assurance.grpc_client import GrpcClient
from tidemill.realtime.protocols.grpc.messages import message

METHOD = "/inference.GRPCInferenceService/ModelInfer"
GOAL_REST, GOAL_GRPCIO = 0.7, 8.0
# The shape that the goals are of: as many calls at a time as REST has connections.
STREAMS = 64
START_S = 30.0
HEADER = ("server", "connections x streams", "calls/s", "server CPU µs a call", "server busy", "client busy", "errors")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how often; `shapes` are connections and streams on each."""

    rounds: int = 5
    seconds: int = 4
    shapes: tuple[tuple[int, int], ...] = ((1, 1), (1, 64), (8, 8), (64, 1))


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """One run of h2load, or of wrk for REST; busy is a share of a core."""

    server: str
    connections: int
    streams: int
    round: int
    per_second: float
    server_us: float
    server_busy: float
    client_busy: float
    errors: int
    others: float


class GrpcResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    settings: Settings
    cores: str
    request_bytes: int
    loads: list[Calls]

    def of(self, server: str, shape: tuple[int, int]) -> list[Calls]:
        """The rounds of one server at one shape."""
        return [x for x in self.loads if (x.server, x.connections, x.streams) == (server, *shape)]

    def best(self, server: str) -> tuple[int, int]:
        """The shape of 64 calls at a time at which a server answers most."""
        shapes = [s for s in self.settings.shapes if s[0] * s[1] == STREAMS]
        return max(shapes, key=lambda s: statistics.median(x.per_second for x in self.of(server, s)))

    def ratios(self, other: str, shape: tuple[int, int]) -> list[float]:
        """Tidemill's calls/s over the other's at its best shape (REST: at 64 connections), round by round."""
        theirs = self.of(other, (STREAMS, 1) if other == "REST" else self.best(other))
        pairs = zip(self.of("gRPC", shape), theirs, strict=True)
        return [a.per_second / max(b.per_second, 1e-9) for a, b in pairs]


def run(out: Path, settings: Settings) -> GrpcResult:
    """Measure; files go below `out`."""
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is not installed: run `make setup-services` (Debian, Ubuntu: nghttp2-client).")
    places = cores()
    trained = model.make(out / "model")
    bodies = trained.bodies(1)
    lines, body = out / "bodies.jsonl", out / "body.grpc"
    lines.write_bytes(bodies[0])
    asked = _request(bodies[0], trained)
    body.write_bytes(b"\0" + len(asked).to_bytes(4, "big") + asked)
    loads: list[Calls] = []
    with (
        started(tidemill(trained, bodies), places.server, bodies, out / "logs") as ours,
        _grpcio(places, out / "logs", asked, "asyncio") as echo,
        _grpcio(places, out / "logs", asked, "uvloop") as quick_echo,
    ):
        _check(ours.server.port, asked, trained, bodies[0])
        for number in range(settings.rounds):
            rest = wrk(ours, lines, STREAMS, settings.seconds, places, number)
            loads.append(_of_rest(rest, number))
            for name, running in (("gRPC", ours), ("grpcio", echo), ("grpcio on uvloop", quick_echo)):
                for shape in settings.shapes:
                    loads.append(h2load(name, running, body, shape, settings.seconds, places, number))
                    print(f"  {number} {name} {shape}: {loads[-1].per_second:,.0f}/s", flush=True)
    where = f"server on core {places.server}, client on core {places.client}"
    return GrpcResult(settings=settings, cores=where, request_bytes=len(asked), loads=loads)


def h2load(
    name: str, running: Running, body: Path, shape: tuple[int, int], seconds: int, places: Cores, number: int
) -> Calls:
    """Load a server over so many connections with so many streams, each waiting for its answer."""
    connections, streams = shape
    command: list[str | Path] = ["h2load", "-t1", "-D", str(seconds), "-c", str(connections), "-m", str(streams)]
    command += ["-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers", running.server.url + METHOD]
    bystanders = Bystanders()
    cpu, clock = running.cpu_seconds(), time.perf_counter()
    with subprocess.Popen(pinned(places.client, command), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    elapsed = time.perf_counter() - clock
    cpu = running.cpu_seconds() - cpu
    client = usage.ru_utime + usage.ru_stime
    bystanders.ours(cpu + client)
    found = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", told)
    if process.returncode or found is None:
        raise RuntimeError(f"h2load ended with {process.returncode}: {told[-500:]}")
    done, _, *bad = map(int, found.groups())
    return Calls(
        server=name,
        connections=connections,
        streams=streams,
        round=number,
        per_second=done / seconds,
        server_us=cpu / max(done, 1) * 1e6,
        server_busy=cpu / elapsed,
        client_busy=client / elapsed,
        errors=sum(bad),
        others=bystanders.share(),
    )


def goals(result: GrpcResult) -> list[tuple[str, str, str, str]]:
    """What was to be reached."""
    rest = statistics.median(result.ratios("REST", result.best("gRPC")))
    grpcio = statistics.median(result.ratios("grpcio", result.best("gRPC")))
    return [
        ("gRPC calls/s over our REST's, 64 at a time", f"{rest:.2f}", f"≥ {GOAL_REST}", met(rest >= GOAL_REST)),
        (
            "gRPC calls/s over a bare grpcio asyncio echo's",
            f"{grpcio:.1f}",
            f"≥ {GOAL_GRPCIO:.0f}",
            met(grpcio >= GOAL_GRPCIO),
        ),
        ("gRPC calls without an answer", str(sum(x.errors for x in result.loads)), "0", met(not _errors(result))),
    ]


def section(result: GrpcResult) -> str:
    """This part of the report."""
    settings = result.settings
    names = ["REST", "gRPC", "grpcio", "grpcio on uvloop"]
    rows = []
    for name in names:
        for shape in [(STREAMS, 1)] if name == "REST" else settings.shapes:
            loads = result.of(name, shape)
            rows.append(
                (
                    name,
                    f"{shape[0]} x {shape[1]}",
                    spread([x.per_second for x in loads]),
                    spread([x.server_us for x in loads], ".1f"),
                    f"{statistics.median(x.server_busy for x in loads):.0%}",
                    f"{statistics.median(x.client_busy for x in loads):.0%}",
                    f"{sum(x.errors for x in loads):,}",
                )
            )
    over = {name: spread(result.ratios(name, result.best("gRPC")), ".1f") for name in ("grpcio", "grpcio on uvloop")}
    return f"""## gRPC

The model and the row of the HTTP part as a ModelInferRequest of {result.request_bytes} bytes with raw contents;
{result.cores}. Load by h2load (REST: by wrk from {STREAMS} connections), {settings.rounds} rounds of
{settings.seconds} s, the servers in turn in each. `grpcio` is its asyncio server giving the message back as bytes, on
asyncio's own loop and on uvloop. Before the timing Tidemill had to give the REST answer's values, bit for bit.

{table(HEADER, rows)}

gRPC's calls/s over those of grpcio's echo, each at its best: {over["grpcio"]}, on uvloop {over["grpcio on uvloop"]}.

This part alone: `python -m benchmarks grpc` (h2load comes with `make setup-services`)."""


def _errors(result: GrpcResult) -> int:
    return sum(x.errors for x in result.loads)


def _of_rest(load: Load, number: int) -> Calls:
    return Calls(
        server="REST",
        connections=STREAMS,
        streams=1,
        round=number,
        per_second=load.per_second,
        server_us=load.server_us,
        server_busy=load.server_busy,
        client_busy=load.client_busy,
        errors=load.errors,
        others=load.others,
    )


def _request(body: bytes, trained: model.Model) -> bytes:
    """The REST request as a message with raw contents."""
    tensor = orjson.loads(body)["inputs"][0]
    made = message("inference.ModelInferRequest")(model_name=trained.path.split("/")[3])
    made.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    made.raw_input_contents.append(np.array(tensor["data"], np.float32).tobytes())
    return bytes(made.SerializeToString())


def _check(port: int, asked: bytes, trained: model.Model, body: bytes) -> None:
    """The gRPC answer holds what ONNX Runtime says. Raises WrongAnswerError."""
    with closing(GrpcClient("127.0.0.1", port)) as client:
        answer = client.call(METHOD, [asked])
    if answer.status:
        raise WrongAnswerError(f"tidemill serve answered {answer.status} {answer.text}")
    found = message("inference.ModelInferResponse").FromString(answer.messages[0])
    (expected,) = trained.answers([body])
    for tensor, raw in zip(found.outputs, found.raw_output_contents, strict=True):
        values = np.frombuffer(raw, {"FP32": "<f4", "INT64": "<i8"}[tensor.datatype]).tolist()
        if np.float32(values).tolist() != np.float32(expected[tensor.name]).tolist():
            raise WrongAnswerError(f"{tensor.name} is {values}, expected {expected[tensor.name]}")


@contextmanager
def _grpcio(places: Cores, logs: Path, asked: bytes, loop: str) -> Iterator[Running]:
    """grpcio's echo on the server's core, answering."""
    port = free_port()
    command: list[str | Path] = [sys.executable, ROOT / "benchmarks/grpcio_echo.py", str(port), loop]
    server = Server("grpcio", f"grpcio echo on {loop}", command, port, METHOD, lambda body, answer: body == answer)
    with (logs / f"grpcio-{loop}.log").open("wb") as log:
        process = subprocess.Popen(pinned(places.server, command), stdout=log, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + START_S
        while True:
            try:
                with closing(GrpcClient("127.0.0.1", port)) as client:
                    if client.call(METHOD, [asked]).messages != [asked]:
                        raise WrongAnswerError("grpcio's echo is none")
                    break
            except OSError:
                if time.monotonic() > until or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield Running(server, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
