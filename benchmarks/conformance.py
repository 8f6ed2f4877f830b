"""`make conformance`: the conformance kit on Tidemill, MLServer and Triton, its results into docs/conformance.md."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import orjson

from benchmarks.machine import BIN, ROOT
from benchmarks.peers.commands import triton_program
from benchmarks.peers.environments import HERE, Missing, environment
from benchmarks.peers.tidemill_same import TENSORS
from benchmarks.servers import Server, free_port, ready
from tidemill.assurance.conformance import Outcome, Report, run

PAGE = ROOT / "docs/conformance.md"
RESULTS = "## Results\n"
MODEL = "same"
SHOWN = 110
TRITON_TYPES = {"BYTES": "STRING"}
SIGNS = {Outcome.PASS: "✓", Outcome.FAIL: "**✗**", Outcome.SKIPPED: "skipped:", Outcome.OBSERVED: ""}


def main() -> int:
    """Run the kit on each server that can be had here and write the table; 1 if Tidemill fails a required case."""
    reports = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, start in STARTS.items():
            try:
                with _started(name, start, Path(folder) / name) as (port, grpc):
                    reports[name] = run(f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc}", MODEL, hostile=True)
            except Missing as reason:
                print(f"{name}: {reason}")
                return 2
            counts = ", ".join(f"{reports[name].count(outcome)} {outcome}" for outcome in Outcome)
            print(f"{name}: {reports[name].server}: {counts}")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text[: text.index(RESULTS)] + "\n".join(_section(reports)) + "\n", encoding="utf-8")
    return int(not reports["Tidemill"].passed)


def _tidemill(folder: Path, port: int, grpc: int) -> list[str | Path]:
    package = folder / "package"
    program: list[str | Path] = [BIN / "tidemill"]
    made = [*program, "package", HERE / "tidemill_same.py", "--name", MODEL, "--out", package]
    subprocess.run([str(part) for part in made], check=True, capture_output=True)
    return [*program, "serve", package, "--port", str(port), "--grpc-port", str(grpc)]


def _mlserver(folder: Path, port: int, grpc: int) -> list[str | Path]:
    python = environment("mlserver")
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_port": free_port()}
    (folder / "settings.json").write_bytes(orjson.dumps({**settings, "parallel_workers": 0, "debug": False}))
    inputs, outputs = (
        [{"name": prefix + name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in TENSORS.items()]
        for prefix in ("", "same_")
    )
    model = {"name": MODEL, "implementation": "mlserver_same.Same", "inputs": inputs, "outputs": outputs}
    (folder / "model-settings.json").write_bytes(orjson.dumps(model))
    return ["env", f"PYTHONPATH={HERE}", python.parent / "mlserver", "start", folder]


def _triton(folder: Path, port: int, grpc: int) -> list[str | Path]:
    python = environment("triton")
    version = folder / "models" / MODEL / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_bytes((HERE / "triton_same.py").read_bytes())
    inputs, outputs = (
        ", ".join(
            f'{{ name: "{prefix}{name}" data_type: TYPE_{TRITON_TYPES.get(datatype, datatype)} dims: {shape[1:]} }}'
            for name, (datatype, shape) in TENSORS.items()
        )
        for prefix in ("", "same_")
    )
    config = f'name: "{MODEL}" backend: "python" max_batch_size: 4096\ninput [ {inputs} ]\noutput [ {outputs} ]\n'
    (version.parent / "config.pbtxt").write_text(config + "instance_group [ { count: 1 kind: KIND_CPU } ]\n")
    command = [*triton_program(python), f"--model-repository={folder / 'models'}", "--allow-metrics=false"]
    command += ["--http-address=127.0.0.1", f"--http-port={port}"]
    return [*command, "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"]


STARTS: dict[str, Callable[[Path, int, int], list[str | Path]]] = {
    "Tidemill": _tidemill,
    "MLServer": _mlserver,
    "Triton": _triton,
}


@contextmanager
def _started(name: str, start: Callable[[Path, int, int], list[str | Path]], folder: Path) -> Iterator[tuple[int, int]]:
    """The server, ready; its ports for HTTP and gRPC. Raises Missing."""
    folder.mkdir()
    port, grpc = free_port(), free_port()
    command = start(folder, port, grpc)
    server = Server(name, name, command, port, "/", lambda _, __: True, f"/v2/models/{MODEL}/ready")
    with ready(server, [str(part) for part in command], folder / "log"):
        yield port, grpc


def _section(reports: dict[str, Report]) -> Iterator[str]:
    """The table, and who was asked."""
    yield RESULTS
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    who = ", ".join(f"{name} ({report.server})" for name, report in reports.items())
    yield f"Written by `make conformance` on {date}: {who}."
    yield ""
    yield f"| | {' | '.join(reports)} |"
    yield f"|---|{'---|' * len(reports)}"
    for outcome in Outcome:
        yield f"| {outcome.value} | {' | '.join(str(r.count(outcome)) for r in reports.values())} |"
    first = next(iter(reports.values()))
    chapter = ""
    for place, one in enumerate(first.results):
        if one.chapter != chapter:
            chapter = one.chapter
            yield from ("", f"### {chapter}", "", f"| case | level | clause | {' | '.join(reports)} |")
            yield f"|---|---|---|{'---|' * len(reports)}"
        seen = [report.results[place] for report in reports.values()]
        cells = [f"{SIGNS[r.outcome]} {_cell(r.detail)}".strip() for r in seen]
        clause = _cell(one.case.clause, len(one.case.clause))
        yield f"| {_cell(one.case.name)} | {one.case.level.value} | {clause} | {' | '.join(cells)} |"


def _cell(text: str, most: int = SHOWN) -> str:
    """A text in a table's cell: as it was seen, shortened, without paths of this machine."""
    shown = " ".join(text.replace(str(ROOT), "…").split())
    shown = shown if len(shown) <= most else shown[:most] + "…"
    for sign in "\\|<>*_`[]":
        shown = shown.replace(sign, f"\\{sign}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
