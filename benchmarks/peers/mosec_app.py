"""mosec. Default: one request a call. Best: merged calls."""

from typing import Any

import numpy as np
from common import BEST, MOST, Trees, decoded, encoded, parted
from mosec import Server, Worker


class Model(Worker):
    """The trees."""

    def __init__(self) -> None:
        self.trees = Trees()

    def deserialize(self, data: bytes) -> Any:
        """Body to rows."""
        return decoded(data)

    def serialize(self, data: Any) -> bytes:
        """Outputs to body."""
        return encoded(self.trees.outputs, data)

    def forward(self, data: Any) -> Any:
        """Rows of one request, or those of several."""
        if not BEST:
            return self.trees(data)
        return parted(self.trees(np.concatenate(data)), [len(rows) for rows in data])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, **({"max_batch_size": MOST, "max_wait_time": 1} if BEST else {}))
    server.run()
