"""Calls for tests: messages of the server's own private pool over a plain grpcio channel."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np

from tidemill.datatypes import from_numpy_dtype
from tidemill.realtime.protocols.grpc.messages import message

SERVICE = "/inference.GRPCInferenceService"
Request = message("inference.ModelInferRequest")
Response = message("inference.ModelInferResponse")


def unary(channel: grpc.Channel, path: str, answer: str) -> Callable[..., Any]:
    """A method of one message each way, by its path and the full name of its answer."""
    return channel.unary_unary(
        path,
        request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        response_deserializer=message(answer).FromString,
    )


def stream(channel: grpc.Channel, path: str, answer: str) -> Callable[..., Any]:
    """A method of any number of messages each way."""
    return channel.stream_stream(
        path,
        request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        response_deserializer=message(answer).FromString,
    )


def infer(channel: grpc.Channel) -> Callable[..., Any]:
    """ModelInfer."""
    return unary(channel, f"{SERVICE}/ModelInfer", "inference.ModelInferResponse")


def raw(model: str, version: str = "", **tensors: np.ndarray) -> Any:
    """A request with `raw_input_contents`."""
    made = Request(model_name=model, model_version=version)
    for name, array in tensors.items():
        made.inputs.add(name=name, datatype=from_numpy_dtype(array.dtype).name, shape=array.shape)
        made.raw_input_contents.append(array.tobytes())
    return made


def outputs(response: Any) -> dict[str, list[Any]]:
    """The numeric outputs of an answer as nested lists."""
    found = {}
    for tensor, data in zip(response.outputs, response.raw_output_contents, strict=True):
        dtype = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "BOOL": "?"}.get(tensor.datatype)
        if dtype is not None:
            found[tensor.name] = np.frombuffer(data, dtype).reshape(list(tensor.shape)).tolist()
    return found


def details(error: grpc.RpcError) -> dict[str, Any]:
    """The google.rpc details of an error by the name of their type; its text must be the status's own."""
    trailers = dict(error.trailing_metadata())
    status = message("google.rpc.Status").FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    found = {}
    for packed in status.details:
        name = packed.type_url.rpartition("/")[2]
        found[name.rpartition(".")[2]] = message(name).FromString(packed.value)
    return found


def each(*requests: Any) -> Iterator[Any]:
    yield from requests
