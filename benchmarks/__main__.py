"""`python -m benchmarks [http|grpc|peers|batch|engines|size]…`: measure, keep the raw figures, write the report.

`python -m benchmarks profile http` shows where the server's time goes instead, `python -m benchmarks overload` what
becomes of more load than there is capacity, `python -m benchmarks swap` what changes of the models cost their callers,
`python -m benchmarks limits` what a batch run costs as it grows, when it is killed and beside its model,
`python -m benchmarks soak` (`make soak`) whether anything is lost or grows in ten minutes of everything at once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import msgspec
from msgspec.structs import replace

from benchmarks import (
    against,
    batch,
    batch_limits,
    engines,
    grpc_calls,
    machine,
    overload,
    profiling,
    report,
    serving,
    size,
    soak,
    soak_report,
    swap,
)

PARTS = ("http", "grpc", "peers", "batch", "engines", "size")
ALONE = (["overload"], ["swap"], ["soak"], ["limits"])
QUICK_HTTP = serving.Settings(rounds=2, seconds=1, open_seconds=1.0)
QUICK_GRPC = grpc_calls.Settings(rounds=1, seconds=1)
QUICK_PEERS = against.Settings(rounds=1, seconds=1, connections=(64,))
QUICK_BATCH = batch.Settings(rows=500_000, rounds=2)
QUICK_ENGINES = engines.Settings(rows=200_000, rounds=1)
QUICK_IMPORTS = 3


def main() -> int:
    """Run the parts asked for, all of them by default; 0 unless a request failed or outputs differ."""
    asked = _arguments()
    if asked.parts[0] == "profile":
        profiling.run(asked.out, seconds=asked.seconds or 5, connections=asked.connections or 64)
        return 0
    if asked.parts == ["overload"]:
        found = overload.run(asked.out, seconds=asked.seconds or 10)
        raw = asked.out / "overload.json"
        raw.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
        return int(any(one.failures for one in found))
    if asked.parts == ["limits"]:
        limits = batch_limits.run(asked.out, rows=asked.rows or 1_000_000)
        (asked.out / "limits.json").write_bytes(msgspec.json.format(msgspec.json.encode(limits), indent=1))
        return int(bool(limits.failures))
    if asked.parts == ["swap"]:
        swapped = swap.run(asked.out, seconds=asked.seconds or 200)
        (asked.out / "swap.json").write_bytes(msgspec.json.format(msgspec.json.encode(swapped), indent=1))
        return int(bool(swapped.failures))
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.parts == ["soak"]:
        soaked = soak.run(asked.out / "soak", seconds=asked.seconds or 600)
        (asked.out / "soak" / "soak.json").write_bytes(msgspec.json.encode(soaked))
        told = f"make soak{f' SECONDS={asked.seconds}' if asked.seconds else ''}"
        print(soak_report.write(soaked, told, machine.describe(), asked.report))
        return int(any(one.faults for one in soaked))
    command = f"python -m benchmarks {shlex.join(sys.argv[1:])}".strip()
    results = report.Results(command=command, machine=machine.describe())
    http_settings, batch_settings = _settings(asked)
    for part in asked.parts:
        print(part, flush=True)
        if part == "http":
            results = replace(results, http=serving.run(asked.out, http_settings))
        elif part == "grpc":
            results = replace(results, grpc=grpc_calls.run(asked.out, _grpc_settings(asked)))
        elif part == "peers":
            results = replace(results, peers=against.run(asked.out, QUICK_PEERS if asked.quick else against.Settings()))
        elif part == "batch":
            results = replace(results, batch=batch.run(asked.out, batch_settings))
        elif part == "engines":
            results = replace(results, engines=engines.run(asked.out, _engines_settings(asked)))
        else:
            results = replace(results, size=size.measure(QUICK_IMPORTS if asked.quick else size.IMPORTS))
    raw = asked.out / f"{'-'.join(asked.parts)}.json"
    raw.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    path = report.write(results, asked.report)
    print(f"{path}\n{raw}")
    errors = sum(load.errors for load in results.http.loads) if results.http else 0
    unequal = any(found is not None and not found.equal for found in (results.batch, results.engines))
    return int(errors > 0 or unequal)


def _settings(asked: argparse.Namespace) -> tuple[serving.Settings, batch.Settings]:
    http = QUICK_HTTP if asked.quick else serving.Settings()
    scored = QUICK_BATCH if asked.quick else batch.Settings()
    changes = {"rounds": asked.rounds} if asked.rounds else {}
    if asked.seconds:
        http = replace(http, seconds=asked.seconds, open_seconds=float(asked.seconds))
    if asked.connections:
        http = replace(http, connections=(asked.connections,))
    if asked.rows:
        scored = replace(scored, rows=asked.rows)
    return replace(http, **changes), replace(scored, **changes)


def _grpc_settings(asked: argparse.Namespace) -> grpc_calls.Settings:
    settings = QUICK_GRPC if asked.quick else grpc_calls.Settings()
    changes = {name: getattr(asked, name) for name in ("rounds", "seconds") if getattr(asked, name)}
    return replace(settings, **changes)


def _engines_settings(asked: argparse.Namespace) -> engines.Settings:
    settings = QUICK_ENGINES if asked.quick else engines.Settings()
    changes = {name: getattr(asked, name) for name in ("rounds", "rows") if getattr(asked, name)}
    return replace(settings, **changes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        help="http, grpc, peers, batch, engines, size (default: all); or: profile http, overload, swap, soak, limits",
    )
    parser.add_argument("--quick", action="store_true", help="all parts briefly, to see that they work")
    parser.add_argument("--rows", type=int, help="rows of the batch and engines parts")
    parser.add_argument("--rounds", type=int, help="rounds of the http, batch and engines parts")
    parser.add_argument(
        "--seconds", type=int, help="seconds of each load of the http part, of the profile, or of a soak"
    )
    parser.add_argument("--connections", type=int, help="one number of connections instead of 1, 16, 64 and 512")
    parser.add_argument("--out", type=Path, help="where everything is written, the report included")
    asked = parser.parse_args()
    asked.parts = asked.parts or list(PARTS)
    if asked.parts not in (["profile", "http"], *ALONE) and not set(asked.parts) <= set(PARTS):
        parser.error(
            f"unknown part among {' '.join(asked.parts)}: "
            "http, grpc, peers, batch, engines, size; profile http; overload; swap; soak; limits"
        )
    # Only a complete, full run becomes the report that is committed.
    smaller = asked.quick or asked.rows or asked.seconds or asked.connections
    complete = asked.out is None and asked.parts in (list(PARTS), ["soak"]) and not smaller
    asked.out = asked.out or machine.ROOT / "benchmarks/out" / ("quick" if asked.quick else "")
    asked.report = machine.ROOT / "benchmarks" if complete else asked.out
    return asked


if __name__ == "__main__":
    sys.exit(main())
