"""The same rows through each mode: in process, batch, REST as JSON and binary, gRPC. Every mode gives `Answers`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tidemill.assurance.grpc_client import GrpcClient, infer_request, infer_response
from tidemill.assurance.oip import Client, binary_body, json_body, read_response
from tidemill.assurance.tables import read_outputs, to_table
from tidemill.batch import ScoreOptions, score
from tidemill.errors import ModelError, Problem, Unavailable
from tidemill.model.signature import Output
from tidemill.prediction.live import Live
from tidemill.prediction.result import Result
from tidemill.rows import Array, Rows

__all__ = ["Answers", "batch", "grpc", "in_process", "rest", "serving"]

START_SECONDS = 120.0
# Requests of several sizes from several connections: the server merges them as it likes.
SIZES = (1, 3, 17, 64, 200)
CONNECTIONS = 4
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Answers:
    """What one mode said to n rows: outputs (n, …) with fillers in rows that are not ok, and why those are not."""

    outputs: Mapping[str, Array]
    statuses: list[str]
    texts: list[str]
    seconds: float


def in_process(live: Live, rows: Rows) -> Answers:
    """One call of the path."""
    started = time.perf_counter()
    result = live.predict(rows)
    return _answers(result, time.perf_counter() - started)


def batch(live: Live, rows: Rows) -> Answers:
    """A run from Parquet to Parquet, its dead letters read back."""
    manifest = live.package.manifest
    with tempfile.TemporaryDirectory(prefix="tidemill-verify-") as folder:
        source, sink, dead = (Path(folder) / name for name in ("rows.parquet", "out.parquet", "dead.parquet"))
        # Small chunks, so that the rows are cut otherwise than in the other modes; whole where rows belong together.
        chunk = max(1, rows.n // 7) if live.divisible else rows.n
        pq.write_table(to_table(manifest.inputs, rows), source, row_group_size=3 * chunk)
        started = time.perf_counter()
        score(live.package.directory, source, sink, ScoreOptions(chunk_rows=chunk, dead_letters=str(dead)))
        seconds = time.perf_counter() - started
        letters = pq.read_table(dead).to_pylist() if dead.exists() else []
        written = pq.read_table(sink)
    problems = [
        Problem(letter["_row"], p["code"], p["field"], p["message"]) for letter in letters for p in letter["_problems"]
    ]
    answered = np.setdiff1d(np.arange(rows.n), [p.row for p in problems])
    outputs = _joined(manifest.outputs, [(answered, read_outputs(manifest.outputs, written))], rows.n)
    return _answers(Result(outputs, problems), seconds)


def rest(live: Live, rows: Rows, address: tuple[str, int], *, binary: bool) -> Answers:
    """Requests of several sizes over several connections to a server that is running."""
    manifest = live.package.manifest
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(*address))) for _ in range(CONNECTIONS)]

        def ask(lane: int, part: Rows) -> tuple[dict[str, Any], bytes]:
            body, size = binary_body(manifest.inputs, part) if binary else (json_body(manifest.inputs, part), None)
            return clients[lane].infer(manifest.name, body, size)

        return _asked(live, rows, ask)


def grpc(live: Live, rows: Rows, address: tuple[str, int]) -> Answers:
    """The same as gRPC calls with raw tensors."""
    manifest = live.package.manifest
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(GrpcClient(*address))) for _ in range(CONNECTIONS)]

        def ask(lane: int, part: Rows) -> tuple[dict[str, Any], bytes]:
            answer = clients[lane].call(INFER, [infer_request(manifest.name, manifest.inputs, part)])
            if answer.status != 0:
                raise ModelError(f"gRPC status {answer.status}: {answer.text}")
            return infer_response(answer.messages[0])

        return _asked(live, rows, ask)


def _asked(live: Live, rows: Rows, ask: Callable[[int, Rows], tuple[dict[str, Any], bytes]]) -> Answers:
    """The answers to pieces of the rows, asked for on several lanes at a time: a response and what follows it."""
    manifest = live.package.manifest
    pieces = list(_pieces(rows.n, SIZES if live.divisible else (rows.n,)))

    def work(lane: int) -> list[tuple[int, Result]]:
        found = []
        for start, stop in pieces[lane::CONNECTIONS]:
            response, rest = ask(lane, rows.slice(start, stop))
            outputs = Rows(read_response(manifest.outputs, response, rest), stop - start)
            found.append((start, Result(outputs, _problems(response))))
        return found

    started = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = sorted((r for lane in pool.map(work, range(CONNECTIONS)) for r in lane), key=lambda r: r[0])
    seconds = time.perf_counter() - started
    problems = [p.at(p.row + start) for start, result in found for p in result.problems]
    outputs = _joined(manifest.outputs, [(np.arange(s, s + r.n), r.outputs.columns) for s, r in found], rows.n)
    return _answers(Result(outputs, problems), seconds)


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[tuple[str, int]]:
    """A real server of one package in a process of its own, on a free port of this machine; ended with SIGTERM.

    Raises Unavailable with what it wrote if it is not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="tidemill-verify-") as folder:
        port_file, log = Path(folder) / "port", Path(folder) / "log"
        command = [sys.executable, "-m", "tidemill", "serve", str(directory), "--port", "0"]
        with open(log, "wb") as stream:
            process = subprocess.Popen(
                [*command, "--port-file", str(port_file), "--lame-duck", "0"], stdout=stream, stderr=stream
            )
        try:
            until = time.monotonic() + START_SECONDS
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise Unavailable(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.02)
            host, _, port = port_file.read_text().strip().rpartition(":")
            yield host.strip("[]"), int(port)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _pieces(n: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = turn = 0
    while start < n:
        stop = min(n, start + sizes[turn % len(sizes)])
        yield start, stop
        start, turn = stop, turn + 1


def _problems(response: dict[str, Any]) -> list[Problem]:
    """The bad rows of a partial answer, as its parameters tell them."""
    told = response.get("parameters", {}).get("row_errors", ())
    return [Problem(p["row"], p["code"], p["field"], p["message"]) for p in told]


def _joined(outputs: Sequence[Output], parts: Sequence[tuple[Array, Mapping[str, Array]]], n: int) -> Rows:
    """n rows of each output, put together of (row indices, columns) parts. Dimensions that vary are as wide as the
    widest part: one that holds only bad rows has none.
    """
    columns: dict[str, Array] = {}
    for output in outputs:
        arrays = [(index, found[output.name]) for index, found in parts]
        inner = tuple(max(d) for d in zip(*(a.shape[1:] for _, a in arrays), strict=True))
        out = columns[output.name] = np.zeros((n, *inner), output.type.dtype)
        for index, array in arrays:
            place: Any = (index, *(slice(0, d) for d in array.shape[1:]))
            out[place] = array
    return Rows(columns, n)


def _answers(result: Result, seconds: float) -> Answers:
    texts: list[list[str]] = [[] for _ in range(result.n)]
    for p in result.problems:
        texts[p.row].append(p.message)
    return Answers(result.outputs.columns, result.statuses(), ["; ".join(t) for t in texts], seconds)
