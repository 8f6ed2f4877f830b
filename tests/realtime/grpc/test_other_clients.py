"""Clients that are programs of their own: KServe's, grpc-js, and h2load."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.realtime.grpc.calls import raw
from tests.realtime.serving import Served

HERE = Path(__file__).parent
PATIENCE = 100.0
ROWS = {"sum": [6.0, 15.0], "twice": [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]}


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=PATIENCE, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def needs(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is missing: make setup-services installs it")
    return path


def test_kserve(shared: Served) -> None:
    found = json.loads(run(sys.executable, HERE / "kserve_client.py", shared.address).splitlines()[-1])
    assert (found["live"], found["ready"], found["model"]) == (True, True, True)
    assert found["raw"] == found["typed"] == {"id": "k", "version": "1", **ROWS}
    assert "row 0: a: got -1.0, expected ≥ 0" in found["error"]


def test_grpc_js(shared: Served) -> None:
    node = needs("node")
    scripts = HERE.parents[1] / "node"
    if not (scripts / "node_modules/@grpc/grpc-js").is_dir():
        pytest.skip("grpc-js is missing: make setup-services installs it")
    protos = HERE.parents[2] / "src/tidemill/realtime/protocols/grpc/protos/triton"
    found = json.loads(run(node, scripts / "grpc.js", shared.address, protos))
    assert found["ready"] == {"ready": True}
    assert found["typed"] == ROWS["sum"]
    assert found["raw"] == ROWS["sum"]
    assert found["compressed"] == ROWS["sum"]
    assert found["bad"] == {
        "code": 3,
        "details": "1 of 1 rows rejected: row 0: a: got -1.0, expected ≥ 0",
        "has_details": True,
    }
    assert found["late"]["code"] == 4
    assert found["cancelled"]["code"] == 1
    assert found["stream"] == [[float(3 * i)] for i in range(50)]


@pytest.mark.parametrize(("connections", "streams"), [(1, 64), (8, 8)])
def test_h2load(shared: Served, tmp_path: Path, connections: int, streams: int) -> None:
    h2load = needs("h2load")
    body = raw("matrix", X=np.ones((1, 3), np.float32)).SerializeToString()
    file = tmp_path / "body"
    file.write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
    before = sum(s["inference_stats"]["success"]["count"] for s in stats(shared))
    shape = ("-n", "2000", "-c", str(connections), "-m", str(streams))
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    url = f"http://{shared.address}/inference.GRPCInferenceService/ModelInfer"
    told = run(h2load, *shape, "-d", file, *headers, url)
    assert re.search(r"2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout", told), told
    assert sum(s["inference_stats"]["success"]["count"] for s in stats(shared)) == before + 2000


def stats(shared: Served) -> list[dict]:
    return shared.get("/v2/models/matrix/stats").json()["model_stats"]
