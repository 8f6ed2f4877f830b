"""How each peer is started, in its default and in its best settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson

from benchmarks.model import Model
from benchmarks.peers.environments import HERE, environment
from benchmarks.servers import Check, Server, free_port, same_values

__all__ = ["PEERS", "peer", "triton_program"]

OUTPUTS = {"label": "TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] }", "probabilities": "TYPE_FP32 dims: [ 2 ]"}


def _fastapi(python: Path, port: int, folder: Path, best: bool) -> tuple[list[str | Path], str, str]:
    return [python, HERE / "fastapi_app.py"], "/infer", "/"


def _mosec(python: Path, port: int, folder: Path, best: bool) -> tuple[list[str | Path], str, str]:
    socket = folder / "socket"
    command: list[str | Path] = [python, HERE / "mosec_app.py", "--address", "127.0.0.1", "--port", str(port)]
    return [*command, "--path", socket, "--timeout", "10000", "--capacity", "2048"], "/inference", "/"


def _litserve(python: Path, port: int, folder: Path, best: bool) -> tuple[list[str | Path], str, str]:
    return [python, HERE / "litserve_app.py"], "/predict", "/health"


def _bentoml(python: Path, port: int, folder: Path, best: bool) -> tuple[list[str | Path], str, str]:
    command: list[str | Path] = [python, "-m", "bentoml", "serve", "bentoml_app:Cancer", "--working-dir", HERE]
    return [*command, "--host", "127.0.0.1", "--port", str(port)], "/infer", "/readyz"


def _rayserve(python: Path, port: int, folder: Path, best: bool) -> tuple[list[str | Path], str, str]:
    return [python, HERE / "rayserve_app.py"], "/", "/"


def _mlserver(python: Path, port: int, folder: Path, best: bool) -> tuple[list[str | Path], str, str]:
    merged = {"max_batch_size": 64, "max_batch_time": 0.001} if best else {}
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    model = {"name": "cancer", "implementation": "mlserver_model.Cancer", **merged}
    model["parameters"] = {"uri": os.environ["PEER_MODEL"]}
    _write(folder / "settings.json", settings | ({"parallel_workers": 0, "debug": False} if best else {}))
    _write(folder / "model-settings.json", model)
    return [python.parent / "mlserver", "start", folder], "/v2/models/cancer/infer", "/v2/models/cancer/ready"


def triton_program(python: Path) -> list[str | Path]:
    """Triton's own binary of that environment, and where its backends are."""
    site = next((python.parents[1] / "lib").glob("python*/site-packages"))
    home = site / "pytriton/tritonserver"
    stub = home / "backends/python/triton_python_backend_stub"
    if not stub.exists():
        shutil.copy(home / f"python_backend_stubs/3.11/{stub.name}", stub)
    libraries = f"LD_LIBRARY_PATH={site / 'nvidia_pytriton.libs'}:{home / 'lib'}:{home / 'external_libs'}"
    # The backend finds its Python, and with it NumPy, by the first one on the path.
    path = f"PATH={python.parent}:{os.environ['PATH']}"
    return ["env", libraries, path, home / "bin/tritonserver", f"--backend-directory={home / 'backends'}"]


def _triton(python: Path, port: int, folder: Path, best: bool) -> tuple[list[str | Path], str, str]:
    repository = folder / "models"
    version = repository / "cancer/1"
    version.mkdir(parents=True, exist_ok=True)
    for ours, theirs in (("triton_model.py", "model.py"), ("common.py", "common.py")):
        shutil.copy(HERE / ours, version / theirs)
    outputs = ", ".join(f'{{ name: "{n}" data_type: {kind} }}' for n, kind in OUTPUTS.items())
    config = (
        'name: "cancer" backend: "python" max_batch_size: 4096\n'
        'input [ { name: "X" data_type: TYPE_FP32 dims: [ 30 ] } ]\n'
        f"output [ {outputs} ]\ninstance_group [ {{ count: 1 kind: KIND_CPU }} ]\n"
    )
    (repository / "cancer/config.pbtxt").write_text(config + ("dynamic_batching { }\n" if best else ""))
    command = [*triton_program(python), f"--model-repository={repository}"]
    command += ["--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]
    return command, "/v2/models/cancer/infer", "/v2/models/cancer/ready"


Start = Callable[[Path, int, Path, bool], tuple[list[str | Path], str, str]]
PEERS: dict[str, tuple[str, Start]] = {
    "triton": ("Triton (Python backend)", _triton),
    "mosec": ("mosec", _mosec),
    "mlserver": ("MLServer", _mlserver),
    "litserve": ("LitServe", _litserve),
    "bentoml": ("BentoML", _bentoml),
    "rayserve": ("Ray Serve", _rayserve),
    "fastapi": ("FastAPI", _fastapi),
}


def peer(name: str, best: bool, model: Model, bodies: list[bytes], out: Path) -> Server:
    """One peer, ready to be started; what it writes goes below `out`. Raises Missing."""
    label, start = PEERS[name]
    python = environment(name)
    settings = "best" if best else "default"
    folder = out / f"{name}-{settings}"
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    os.environ["PEER_MODEL"] = str(model.onnx)
    command, path, ready = start(python, port, folder, best)
    variables = [f"PEER_MODEL={model.onnx}", f"PEER_PORT={port}", f"PEER_SETTINGS={settings}"]
    command = ["env", "-C", folder, *variables, f"PYTHONPATH={HERE}", *command]
    return Server(f"{name}_{settings}", f"{label}, {settings}", command, port, path, _right(model, bodies), ready)


def _right(model: Model, bodies: list[bytes]) -> Check:
    expected = dict(zip(bodies, model.answers(bodies), strict=True))

    def right(body: bytes, answer: bytes) -> bool:
        found = orjson.loads(answer)
        found = found[0] if isinstance(found, list) else found
        return same_values(found["outputs"], expected[body])

    return right


def _write(path: Path, value: object) -> None:
    path.write_bytes(orjson.dumps(value))
