"""The compiled hot path, as published wheels have it, answers what the same source answers when it is interpreted."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# One worker, or two of them would build in the same directory at once.
pytestmark = [pytest.mark.xdist_group("compiled"), pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "build/compiled"
# Tests that talk to the code over a wire. Those that make subclasses of compiled classes cannot meet it.
WIRE = (
    "test_bad_input.py",
    "test_fast_reader.py",
    "test_http.py",
    "test_http2.py",
    "test_http2_conformance.py",
    "test_http_drain.py",
    "test_http_known_heads.py",
    "test_http_pipelining.py",
    "test_http_refusals.py",
    "test_http_streaming.py",
    "test_oip_conformance.py",
    "test_overload.py",
    "test_partial.py",
    "test_same_answer.py",
    "test_tfserving.py",
    "test_tritonclient.py",
    "grpc/test_grpcio.py",
    "grpc/test_tritonclient.py",
)


@pytest.fixture(scope="module")
def compiled() -> Path:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler: make setup-services")
    made = subprocess.run(["make", "compiled"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-4000:]
    return COMPILED


def _run(compiled: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(compiled)}
    # Not a worker of the run that this test belongs to.
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_what_is_named_is_compiled(compiled: Path) -> None:
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    names = [path.removeprefix("src/").removesuffix(".py").replace("/", ".") for path in hook["mypyc"]["include"]]
    code = "import importlib, sys; print(*[importlib.import_module(n).__file__ for n in sys.argv[1:]], sep='\\n')"
    files = _run(compiled, "-c", code, *names).split()
    assert len(files) == len(names) > 40
    assert [f for f in files if not (f.startswith(str(compiled)) and f.endswith(".so"))] == []


def test_it_answers_over_every_wire_as_the_source_does(compiled: Path) -> None:
    files = [f"tests/realtime/{name}" for name in WIRE]
    report = _run(compiled, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert " passed" in report.splitlines()[-1]
