"""Plain curl, as the documentation shows it."""

import json
import shutil
import subprocess

import pytest

from tests.realtime.serving import Served

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

BODY = '{"inputs":[{"name":"X","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}'


def curl(*arguments: str, body: bytes | None = None) -> tuple[int, bytes]:
    command = ["curl", "-sS", "-w", "\n%{http_code}", *arguments]
    found = subprocess.run(command, input=body, capture_output=True, timeout=60, check=True).stdout
    content, _, status = found.rpartition(b"\n")
    return int(status), content


def test_a_prediction(shared: Served) -> None:
    status, content = curl(f"http://{shared.address}/v2/models/matrix/infer", "-d", BODY)
    assert status == 200
    assert json.loads(content)["outputs"][0]["data"] == [6.0]


def test_a_compressed_answer(shared: Served) -> None:
    status, content = curl("--compressed", f"http://{shared.address}/openapi.json")
    assert status == 200
    assert json.loads(content)["openapi"] == "3.1.0"


def test_a_large_body_with_expect_100_continue(shared: Served) -> None:
    values = list(range(3 * 20_000))
    tensor = {"name": "X", "shape": [20_000, 3], "datatype": "FP32", "data": values}
    url = f"http://{shared.address}/v2/models/matrix/infer"
    status, content = curl(
        url, "-H", "Expect: 100-continue", "-d", "@-", body=json.dumps({"inputs": [tensor]}).encode()
    )
    assert status == 200
    assert json.loads(content)["outputs"][1]["data"] == [2.0 * v for v in values]


def test_an_error(shared: Served) -> None:
    status, content = curl(f"http://{shared.address}/v2/models/matrix/infer", "-d", "{}")
    assert status == 400
    assert json.loads(content) == {"error": "inputs is missing"}


def test_head(shared: Served) -> None:
    status, content = curl("-I", f"http://{shared.address}/v2/health/ready")
    assert status == 200
    assert b"content-length" in content
