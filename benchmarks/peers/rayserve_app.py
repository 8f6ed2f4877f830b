"""Ray Serve. Default: one request a call. Best: `serve.batch`."""

import signal
from typing import Any

import numpy as np
import ray
from common import BEST, MODEL, MOST, PORT, WAIT, Trees, decoded, encoded, parted
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.1})
class Cancer:
    """The trees."""

    def __init__(self, path: str) -> None:
        self.trees = Trees(path)

    @serve.batch(max_batch_size=MOST, batch_wait_timeout_s=WAIT)
    async def merged(self, bodies: list[bytes]) -> list[bytes]:
        """Several requests."""
        rows = [decoded(b) for b in bodies]
        found = parted(self.trees(np.concatenate(rows)), [len(one) for one in rows])
        return [encoded(self.trees.outputs, arrays) for arrays in found]

    async def __call__(self, request: Request) -> Any:
        """One request."""
        body = await request.body()
        if request.method == "GET":
            return Response(b"{}")
        answer = await self.merged(body) if BEST else encoded(self.trees.outputs, self.trees(decoded(body)))
        return Response(answer, media_type="application/json")


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, logging_level="warning", configure_logging=True)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Cancer.bind(MODEL))
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
