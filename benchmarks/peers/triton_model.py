"""Triton's Python backend: the trees on ONNX Runtime, all requests of a call together."""

import numpy as np
import triton_python_backend_utils as pb_utils
from common import Trees


class TritonPythonModel:
    """The trees."""

    def initialize(self, args: "dict[str, str]") -> None:
        """Load."""
        self.trees = Trees()

    def execute(self, requests: "list[object]") -> "list[object]":
        """The requests of one call."""
        rows = [pb_utils.get_input_tensor_by_name(r, "X").as_numpy() for r in requests]
        found = self.trees(np.concatenate(rows))
        answers, start = [], 0
        for one in rows:
            stop = start + len(one)
            tensors = [pb_utils.Tensor(n, a[start:stop]) for n, a in zip(self.trees.outputs, found, strict=True)]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
            start = stop
        return answers
