"""KServe's own Python clients, REST and gRPC, against this server: in a process of their own, for their messages
collide with those of Triton's client.
"""

import json
import subprocess
import sys

SCRIPT = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

address = sys.argv[1]
url = f"http://{address}"


def request(binary):
    one = InferInput("X", [2, 3], "FP32")
    one.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3), binary_data=binary)
    return InferRequest(model_name="matrix", infer_inputs=[one])


def sums(response):
    return next(o for o in response.outputs if o.name == "sum").as_numpy().tolist()


async def main():
    found = {}
    v2 = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    server = [await v2.is_server_ready(url), await v2.is_server_live(url)]
    found["ready"] = [*server, await v2.is_model_ready(url, "matrix")]
    found["rest"] = sums(await v2.infer(url, request(False), model_name="matrix"))
    found["binary"] = sums(await v2.infer(url, request(True), model_name="matrix"))
    v1 = InferenceRESTClient(RESTConfig(protocol="v1", timeout=30))
    instances = {"instances": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]}
    answer = await v1.infer(url, instances, model_name="matrix")
    found["v1"] = [row["sum"] for row in answer["predictions"]]
    grpc = InferenceGRPCClient(address, timeout=30)
    server = [await grpc.is_server_ready(), await grpc.is_server_live()]
    found["grpc ready"] = [*server, await grpc.is_model_ready("matrix")]
    found["grpc"] = sums(await grpc.infer(request(False)))
    try:
        await v2.infer(url, request(False), model_name="nothing")
    except Exception as error:
        found["missing"] = "404" in str(error)
    print(json.dumps(found))


asyncio.run(main())
"""


def test_kserves_clients_work_unchanged(server):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, server.address],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "ready": [True] * 3,
        "rest": [3.0, 12.0],
        "binary": [3.0, 12.0],
        "v1": [3.0, 12.0],
        "grpc ready": [True] * 3,
        "grpc": [3.0, 12.0],
        "missing": True,
    }
