"""LitServe. Default: one request a call. Best: merged calls, and its fast queue."""

from typing import Any

import litserve
import numpy as np
from common import BEST, MOST, PORT, WAIT, Trees, document, parted, rows_of


class Api(litserve.LitAPI):
    """The trees."""

    def setup(self, device: str) -> None:
        """Load."""
        self.trees = Trees()

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Body to rows."""
        return rows_of(request)

    def batch(self, inputs: list[Any]) -> Any:
        """Rows of several requests; what belongs to whom is told by `predict`."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Call the model."""
        return parted(self.trees(np.concatenate(x)), [len(rows) for rows in x]) if BEST else self.trees(x)

    def unbatch(self, output: Any) -> list[Any]:
        """Each request its rows."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Outputs to body."""
        return document(self.trees.outputs, output)


if __name__ == "__main__":
    api = Api(max_batch_size=MOST, batch_timeout=WAIT) if BEST else Api()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=BEST)
    quiet = {"log_level": "warning", "access_log": False, "generate_client_file": False}
    server.run(host="127.0.0.1", port=PORT, num_api_servers=1, **quiet)
