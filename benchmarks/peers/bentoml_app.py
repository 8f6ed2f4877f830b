"""BentoML. Default: one request a call. Best: its adaptive merging."""

from typing import Any

import bentoml
import numpy as np
from common import BEST, MOST, Trees, document, parted, rows_of


@bentoml.service(name="cancer", workers=1, traffic={"timeout": 10}, logging={"access": {"enabled": False}})
class Cancer:
    """The trees."""

    def __init__(self) -> None:
        self.trees = Trees()

    if BEST:

        @bentoml.api(batchable=True, max_batch_size=MOST, max_latency_ms=1000)
        def infer(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            """The tensors of several requests, one a request."""
            rows = [rows_of({"inputs": [one]}) for one in inputs]
            found = parted(self.trees(np.concatenate(rows)), [len(one) for one in rows])
            return [document(self.trees.outputs, arrays) for arrays in found]

    else:

        @bentoml.api
        def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            """One request."""
            return document(self.trees.outputs, self.trees(rows_of({"inputs": inputs})))
