"""Triton's Python backend: the model that gives back what it gets."""

import json

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The inputs that its configuration declares."""

    def initialize(self, args: "dict[str, str]") -> None:
        """Read the names."""
        self.names = [one["name"] for one in json.loads(args["model_config"])["input"]]

    def execute(self, requests: "list[object]") -> "list[object]":
        """The requests of one call."""
        answers = []
        for request in requests:
            inputs = [(name, pb_utils.get_input_tensor_by_name(request, name)) for name in self.names]
            tensors = [pb_utils.Tensor(f"same_{name}", tensor.as_numpy()) for name, tensor in inputs]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return answers
