"""Where the server's time goes: the hot path is looked at, not guessed at.

Two looks at `tidemill serve` under load. perf samples the CPU and tells libraries and system calls apart, at hardly any
cost; it knows no Python functions. cProfile counts every call, in a server that it makes several times slower: read its
order and its calls a request, not its microseconds.
"""

from __future__ import annotations

import dataclasses
import pstats
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import model
from benchmarks.load import Load, wrk, wrk_path
from benchmarks.machine import ROOT, Cores, cores
from benchmarks.servers import Running, Server, started, tidemill
from benchmarks.serving import BODIES

HERTZ = 1999
SHOWN = 30
SYSTEM_CALL = re.compile(r"sys_(\w+)|(?:vfs|do)_(writev?|readv?|futex|epoll_wait)$")
# Of importing and compiling, before the first request.
STARTUP = ("builtins.compile", "importlib", "marshal")
# Where a function of cProfile belongs; the first rule that its place and name hold.
STAGES = (
    ("event loop and waiting", ("run_until_complete", "run_forever", "acquire", "'get' of '_queue", "select")),
    ("JSON and binary decoding and encoding", ("msgspec", "orjson", "struct")),
    (
        "HTTP, writing to the socket",
        ("tidemill/realtime/http", "tidemill/realtime/connection", "tidemill/realtime/reader", "httptools"),
    ),
    ("protocol", ("tidemill/realtime/",)),
    ("batching and admission", ("tidemill/prediction/batched", "tidemill/prediction/workers", "prediction/profile")),
    ("path", ("tidemill/prediction/", "tidemill/rows", "tidemill/datatypes")),
    ("model", ("onnxruntime", "InferenceSession", "tidemill/runtimes/")),
    ("metrics", ("tidemill/observability/",)),
)


def run(out: Path, seconds: int, connections: int) -> None:
    """Load the server for `seconds` under each profiler in turn, and print what they found."""
    wrk_path()
    out.mkdir(parents=True, exist_ok=True)
    trained = model.make(out / "model")
    bodies = trained.bodies(BODIES)
    lines = out / "bodies.jsonl"
    lines.write_bytes(b"\n".join(bodies))
    places = cores()
    server = tidemill(trained, bodies)
    with started(server, places.server, bodies, out / "logs") as running:
        wrk(running, lines, connections, 1, places)
        load = _perf(running, lines, connections, seconds, places, out / "perf.data")
        _say_load("under perf", load)
        _print_perf(out / "perf.data", load)
    stats = out / "profile.stats"
    stats.unlink(missing_ok=True)
    slow = _under_cprofile(server, stats)
    with started(slow, places.server, bodies, out / "logs") as running:
        wrk(running, lines, connections, 1, places)
        load = wrk(running, lines, connections, seconds, places)
        warm = 1 + 1 / seconds
    _say_load("under cProfile", load)
    _print_stats(pstats.Stats(str(stats)), load.requests * warm)


def _perf(running: Running, lines: Path, connections: int, seconds: int, places: Cores, data: Path) -> Load:
    """The load, while perf samples the CPU time of the server's threads, where perf can."""
    data.unlink(missing_ok=True)
    if shutil.which("perf") is None:
        print("perf is not installed (Debian: apt-get install linux-perf); only cProfile looks.", flush=True)
        return wrk(running, lines, connections, seconds, places)
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-g"]
    command += ["-p", str(running.process.pid), "-o", str(data)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as perf:
        try:
            load = wrk(running, lines, connections, seconds, places)
        finally:
            perf.send_signal(signal.SIGINT)
        _, said = perf.communicate(timeout=30)
    if not data.exists():
        print(f"perf could not sample: {said.strip()}", flush=True)
    return load


def _print_perf(data: Path, load: Load) -> None:
    if not data.exists():
        return
    script = ["perf", "script", "-i", str(data), "-F", "ip,sym,dso"]
    text = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    places: Counter[str] = Counter()
    symbols: Counter[str] = Counter()
    for stack in _stacks(text.splitlines()):
        places[_place(stack)] += 1
        symbols[f"{stack[0][0]}  ({stack[0][1]})"] += 1
    _print("CPU by library and system call (perf)", places, load.server_us)
    _print("CPU by symbol (perf)", symbols, load.server_us)


def _stacks(lines: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    """The samples of `perf script`: (symbol, library) of each frame, the innermost first."""
    stack: list[tuple[str, str]] = []
    for line in [*lines, ""]:
        if line.strip():
            _, _, rest = line.strip().partition(" ")
            symbol, _, library = rest.rpartition(" (")
            stack.append((symbol, library.rstrip(")").rpartition("/")[2]))
        elif stack:
            yield stack
            stack = []


def _place(stack: list[tuple[str, str]]) -> str:
    library = stack[0][1]
    if library not in ("[kernel.kallsyms]", "[unknown]"):
        return library
    calls = [call for symbol, _ in stack if symbol != "do_syscall_64" and (call := SYSTEM_CALL.search(symbol))]
    # The outermost one is what the process asked for.
    return f"kernel: {calls[-1][1] or calls[-1][2]}" if calls else "kernel: other"


def _under_cprofile(server: Server, stats: Path) -> Server:
    arguments = server.command[1:]
    command: list[str | Path] = [sys.executable, ROOT / "benchmarks/cprofiled.py", stats, *arguments]
    return dataclasses.replace(server, command=command)


def _print_stats(stats: pstats.Stats, requests: float) -> None:
    """Functions that are called at least once in a hundred requests: what happens at the start is left out."""
    stages: Counter[str] = Counter()
    rows = []
    for (path, line, name), (_, calls, own, below, _) in stats.stats.items():  # type: ignore[attr-defined]
        if calls < requests / 100 and "run_" not in name:
            continue
        where = name if path == "~" else f"{name}  ({_short(path)}:{line})"
        if any(mark in where for mark in STARTUP):
            continue
        stage = next((stage for stage, marks in STAGES if any(m in where for m in marks)), "builtins and the rest")
        stages[stage] += round(own * 1e9)
        rows.append((own / requests * 1e6, below / requests * 1e6, calls / requests, where))
    total = sum(count for stage, count in stages.items() if stage != STAGES[0][0])
    print("\nby stage (cProfile), own time, without waiting\n       %")
    for stage, count in stages.most_common():
        if stage != STAGES[0][0]:
            print(f"{count / max(total, 1):>8.1%}   {stage}")
    print("\nby function (cProfile), µs a request\n     own    below    calls")
    for own, below, calls, where in sorted(rows, reverse=True)[:SHOWN]:
        print(f"{own:>8.2f} {below:>8.2f} {calls:>8.2f}   {where}")


def _short(path: str) -> str:
    for root in ("/src/", "/site-packages/", "/lib/"):
        _, found, rest = path.rpartition(root)
        if found:
            return rest
    return path


def _print(title: str, found: Counter[str], us: float) -> None:
    total = max(found.total(), 1)
    print(f"\n{title}, {total:,} samples\n       %   µs a request")
    for name, count in found.most_common(SHOWN):
        print(f"{count / total:>8.1%} {count / total * us:>8.2f}   {name}")


def _say_load(how: str, load: Load) -> None:
    print(
        f"\n{load.connections} connections, {how}: {load.per_second:,.0f} req/s, p50 {load.p50} µs, p99 {load.p99} µs, "
        f"{load.server_us:.1f} µs CPU a request"
    )
