"""Where the server's time goes: py-spy samples `tidemill serve` under load, native frames included.

By stage, by function and by line: the hot path is looked at, not guessed at.
"""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks import model
from benchmarks.load import wrk, wrk_path
from benchmarks.machine import BIN, cores, pinned
from benchmarks.servers import started, tidemill
from benchmarks.serving import BODIES

RATE = 400
SHOWN = 20
# The first rule that a frame holds, from the innermost frame outwards, names the stage of a sample.
STAGES = (
    ("waiting for events (idle)", ("epoll_wait", "epoll_pwait")),
    ("socket write", ("write (libc", "send (libc", "sendmsg", "writev (libc", "UVStream__exec_write")),
    ("socket read", ("read (libc", "recv (libc", "uv__read (")),
    ("HTTP parse (httptools)", ("llhttp", "httptools")),
    ("JSON (orjson, msgspec)", ("orjson", "msgspec")),
    ("model (ONNX Runtime)", ("onnxruntime_pybind11", "libonnxruntime")),
    ("runtime wrapper", ("tidemill/runtimes/", "onnxruntime/capi")),
    ("path: validate, transform, seal", ("tidemill/prediction/live", "tidemill/prediction/validate", "tidemill/rows")),
    ("path: intake", ("tidemill/prediction/intake", "tidemill/prediction/cells")),
    ("batching and admission", ("tidemill/prediction/",)),
    ("protocol: decode and encode", ("tidemill/realtime/protocols/",)),
    ("HTTP connection", ("tidemill/realtime/",)),
    ("metrics", ("tidemill/observability/",)),
    ("event loop", ("uv_run", "uvloop", "loop.c")),
)

Stack = tuple[Sequence[str], int]


def run(out: Path, seconds: int, connections: int) -> None:
    """Load the server for `seconds` while it is sampled, and print the lists. Sampling slows the server."""
    wrk_path()
    out.mkdir(parents=True, exist_ok=True)
    trained = model.make(out / "model")
    bodies = trained.bodies(BODIES)
    lines, raw = out / "bodies.jsonl", out / "profile.raw"
    lines.write_bytes(b"\n".join(bodies))
    places = cores()
    with started(tidemill(trained, bodies), places.server, bodies, out / "logs") as running:
        wrk(running, lines, connections, 1, places)
        plain = wrk(running, lines, connections, max(1, seconds // 2), places)
        # The load outlasts the sampling by the second that py-spy needs to start.
        load = threading.Thread(target=wrk, args=(running, lines, connections, seconds + 2, places))
        load.start()
        command: list[str | Path] = [BIN / "py-spy", "record", "--pid", str(running.process.pid), "--native"]
        command += ["--format", "raw", "--rate", str(RATE), "--duration", str(seconds), "--output", raw]
        sampled = subprocess.run(pinned(places.client, command), capture_output=True, text=True)
        load.join()
    if sampled.returncode:
        raise SystemExit(f"py-spy could not sample the server (it needs ptrace): {sampled.stderr.strip()}")
    stacks = [_stack(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    total = sum(count for _, count in stacks)
    print(
        f"\n{connections} connections, not sampled: {plain.per_second:,.0f} req/s, p50 {plain.p50} µs, "
        f"p99 {plain.p99} µs, {plain.server_us:.1f} µs CPU a request.\n{total:,} samples in {raw}"
    )
    us = plain.server_us
    _print("by stage", _count(stacks, lambda frames: [_stage(frames)]), total, us)
    _print("by function, itself and what it calls natively", _count(stacks, lambda f: [_name(_python(f))]), total, us)
    _print("by function, all below it", _count(stacks, lambda f: {_name(x) for x in f if ".py:" in x}), total, us)
    _print("by line", _count(stacks, lambda f: [_python(f)]), total, us)
    _print("native, innermost", _count(stacks, lambda f: [_name(f[-1])] if ".py:" not in f[-1] else []), total, us)


def _stack(line: str) -> Stack:
    frames, _, count = line.rpartition(" ")
    return frames.split(";"), int(count)


def _stage(frames: Sequence[str]) -> str:
    for frame in reversed(frames):
        for stage, marks in STAGES:
            if any(mark in frame for mark in marks):
                return stage
    return "other"


def _python(frames: Sequence[str]) -> str:
    return next((frame for frame in reversed(frames) if ".py:" in frame), "(no Python frame)")


def _name(frame: str) -> str:
    """The frame without its line number."""
    head, colon, _ = frame.rpartition(":")
    return f"{head})" if colon else frame


def _count(stacks: Iterable[Stack], names: Callable[[Sequence[str]], Iterable[str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for frames, count in stacks:
        for name in names(frames):
            found[name] += count
    return found


def _print(title: str, found: Counter[str], total: int, us: float) -> None:
    print(f"\n{title}\n     %   µs/request")
    for name, count in found.most_common(SHOWN):
        share = count / max(total, 1)
        print(f"{share:>7.1%} {share * us:>8.2f}   {name}")
