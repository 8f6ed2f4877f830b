"""The server under test: how it is asked, which model it is asked for, and what that one answered to a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from tidemill.assurance.conformance.case import Failed, Skipped, expect, of
from tidemill.assurance.conformance.tensors import Spec, Tensor, differ, from_json, from_raw
from tidemill.assurance.conformance.wire import Grpc, Reply, Rest

__all__ = ["JSON_SIZE", "Subject", "read_outputs", "refusal"]

JSON_SIZE = "inference-header-content-length"


@dataclass
class Subject:
    """`sample` is None where none is known, `answer` where the server gives none to it; `why` then says why."""

    rest: Rest
    grpc: Grpc | None
    model: str
    extensions: Sequence[str] = ()
    versions: Sequence[str] = ()
    inputs: Sequence[Spec] = ()
    outputs: Sequence[Spec] = ()
    sample: Sequence[Tensor] | None = None
    answer: Mapping[str, Tensor] | None = None
    repeats: bool = True
    why: str = ""
    # Case name → status of each request that was rightly refused.
    refused: dict[str, int] = field(default_factory=dict)

    # -- REST ----------------------------------------------------------------------------------------------

    def path(self, version: str = "", model: str | None = None) -> str:
        """`/v2/models/NAME`, with a version if one is given."""
        found = f"/v2/models/{quote(self.model if model is None else model, safe='')}"
        return f"{found}/versions/{quote(version, safe='')}" if version else found

    def get(self, path: str) -> Reply:
        return self.rest.send("GET", path)

    def post(self, body: Any, headers: Mapping[str, str] | None = None, path: str | None = None) -> Reply:
        """POST a body, an object as JSON, to the model's `/infer`."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return self.rest.send("POST", path or f"{self.path()}/infer", data, headers)

    def sampled(self) -> Sequence[Tensor]:
        """The sample. Raises Skipped where there is none that the server answers."""
        if self.sample is None or self.answer is None:
            raise Skipped("no sample that the model answers")
        return self.sample

    def asked(self, **changes: Any) -> dict[str, Any]:
        """An inference request with the sample in JSON, some of its fields changed or added."""
        return {"inputs": [t.json() for t in self.sampled()], **changes}

    def infer(self, body: Any, headers: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """The outputs of a request that must be answered. Raises Failed."""
        return read_outputs(self.post(body, headers))

    def same(self, outputs: Mapping[str, Tensor]) -> None:
        """Raise Failed unless these are the sample's answer. Raises Skipped for a model that repeats none."""
        if self.answer is None:
            raise Skipped("no sample that the model answers")
        if not self.repeats:
            raise Skipped("the model answers one request differently each time")
        difference = differ(outputs, self.answer)
        expect(not difference, difference)

    def batched(self) -> int:
        """The rows of the sample. Raises Skipped unless all inputs and outputs have a first axis of any size."""
        sample = self.sampled()
        every = [*self.inputs, *self.outputs]
        rows = {len(t.array) if t.array.ndim else 0 for t in (*sample, *(self.answer or {}).values())}
        if not every or any(s.shape[:1] != (-1,) for s in every) or len(rows) != 1 or rows <= {0, 1}:
            raise Skipped("the model's metadata shows no batch of rows")
        return rows.pop()

    # -- gRPC ----------------------------------------------------------------------------------------------

    def calls(self) -> Grpc:
        """The gRPC side. Raises Skipped where no address was given."""
        if self.grpc is None:
            raise Skipped("no --grpc address was given")
        return self.grpc


def refusal(reply: Reply) -> str:
    """What a request that must fail came to. Raises Failed unless it is an error status with the error object."""
    expect(reply.status >= 400, f"HTTP {reply.status}, expected an error status")
    doc = reply.json()
    if not isinstance(doc, dict) or not isinstance(doc.get("error"), str):
        raise Failed(f'{reply.told()}: no {{"error": string}}')
    return f"HTTP {reply.status}"


def read_outputs(reply: Reply) -> dict[str, Tensor]:
    """The outputs of an inference response, JSON or binary. Raises Failed."""
    expect(reply.status == 200, reply.told())
    size = reply.headers.get(JSON_SIZE)
    expect(size is None or size.isdigit(), f"{JSON_SIZE} is {size!r}")
    at = len(reply.body) if size is None else int(size)
    found: dict[str, Tensor] = {}
    for output in of(reply.json(at), "outputs", list):
        parameters = output.get("parameters") if isinstance(output, dict) else None
        length = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if length is None:
            one = from_json(output)
        else:
            expect(type(length) is int and at + length <= len(reply.body), f"binary_data_size is {length!r}")
            one = from_raw(output, reply.body[at : at + length])
            at += length
        expect(one.name not in found, f"output {one.name!r} comes twice")
        found[one.name] = one
    expect(at == len(reply.body), f"{len(reply.body) - at} bytes follow the outputs")
    return found
