"""A program: KServe's own gRPC client against a server. Apart from the tests, because its `_pb2` modules and those of
tritonclient cannot be in one process. Prints what it got as JSON.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


async def main(address: str) -> dict[str, Any]:
    client = InferenceGRPCClient(address)
    found: dict[str, Any] = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model": await client.is_model_ready("matrix"),
    }
    for binary in (True, False):
        tensor = InferInput("X", [2, 3], "FP32")
        tensor.set_data_from_numpy(np.array([[1, 2, 3], [4, 5, 6]], np.float32), binary_data=binary)
        answer = await client.infer(InferRequest("matrix", [tensor], request_id="k", model_version="1"))
        outputs = {o.name: o.as_numpy().tolist() for o in answer.outputs if o.datatype != "BYTES"}
        found["raw" if binary else "typed"] = {"id": answer.id, "version": answer.model_version, **outputs}
    bad = InferInput("X", [1, 3], "FP32")
    bad.set_data_from_numpy(np.array([[-1, 2, 3]], np.float32), binary_data=True)
    try:
        await client.infer(InferRequest("matrix", [bad]))
    except Exception as error:  # noqa: BLE001 - whatever it raises is what the test looks at
        found["error"] = str(error)
    await client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
