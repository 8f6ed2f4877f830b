"""Inference over gRPC, raw and typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidemill.assurance.conformance.case import OPEN, OPTIONAL, REQUIRED, Case, Chapter, Skipped, expect
from tidemill.assurance.conformance.grpc_about import told, versions_of
from tidemill.assurance.conformance.subject import Subject
from tidemill.assurance.conformance.tensors import Tensor, differ, from_contents, from_raw
from tidemill.assurance.conformance.wire import SERVICE, read
from tidemill.realtime.protocols.grpc.messages import message
from tidemill.realtime.protocols.grpc.status import GrpcCode

__all__ = ["GRPC_INFERENCE", "request_of"]

ID = "42 \u00e9 \u65e5"


def request_of(subject: Subject, typed: bool = False, **changes: Any) -> Any:
    """ModelInferRequest with the sample, raw or in typed contents."""
    subject.calls()
    sample = subject.sampled()
    made = message("inference.ModelInferRequest")(model_name=subject.model)
    for tensor in sample:
        head = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape}
        made.inputs.add(**head, **({"contents": tensor.contents()} if typed else {}))
    if not typed:
        made.raw_input_contents.extend([tensor.raw() for tensor in sample])
    if "parameters" in changes:
        made.parameters["tide"].CopyFrom(changes.pop("parameters"))
    made.MergeFrom(type(made)(**changes))
    return made


def outputs_of(response: Any) -> dict[str, Tensor]:
    """The outputs, raw or typed. Raises Failed."""
    raw = list(response.raw_output_contents)
    if raw:
        expect(len(raw) == len(response.outputs), f"{len(raw)} raw_output_contents for {len(response.outputs)} outputs")
    found = {}
    for place, output in enumerate(response.outputs):
        head = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if raw:
            # An empty message holds none of the contents that must not be there.
            expect(not output.contents.ListFields(), f"{output.name!r} has contents beside raw_output_contents")
            found[output.name] = from_raw(head, raw[place])
        else:
            found[output.name] = from_contents(head, output.contents)
    return found


def _infer(subject: Subject, made: Any) -> Any:
    return read(subject.calls().ask("ModelInfer", made), "inference.ModelInferResponse")


def _raw(subject: Subject) -> str:
    response = _infer(subject, request_of(subject))
    outputs_of(response)
    expect(response.model_name == subject.model, f"model_name is {response.model_name!r}")
    return f"answers {'raw' if response.raw_output_contents else 'typed'}"


def _typed(subject: Subject) -> str:
    found = outputs_of(_infer(subject, request_of(subject, typed=True)))
    difference = differ(found, outputs_of(_infer(subject, request_of(subject))))
    expect(not subject.repeats or not difference, f"typed and raw: {difference}")
    return ""


def _as_rest(subject: Subject) -> str:
    subject.same(outputs_of(_infer(subject, request_of(subject))))
    return ""


def _all(subject: Subject) -> str:
    found = outputs_of(_infer(subject, request_of(subject)))
    absent = {one.name for one in subject.outputs} - set(found)
    expect(not absent, f"without {', '.join(sorted(absent))}")
    return ""


def _some(subject: Subject) -> str:
    subject.sampled()
    for name in subject.answer or {}:
        found = outputs_of(_infer(subject, request_of(subject, outputs=[{"name": name}])))
        expect(list(found) == [name], f"asked for {name!r}, got {', '.join(found) or 'nothing'}")
    return ""


def _id(id_: str) -> Callable[[Subject], str]:
    def check(subject: Subject) -> str:
        found = _infer(subject, request_of(subject, id=id_)).id
        expect(found == id_, f"the id is {found!r}")
        return ""

    return check


def _no_id(subject: Subject) -> str:
    found = _infer(subject, request_of(subject)).id
    return "an id of the server's own" if found else "no id"


def _each_version(subject: Subject) -> str:
    for version in versions_of(subject):
        found = _infer(subject, request_of(subject, model_version=version))
        expect(found.model_version == version, f"asked for version {version!r}, answered by {found.model_version!r}")
    return ", ".join(subject.versions)


def _parameters(subject: Subject) -> str:
    found = []
    for value in ({"bool_param": True}, {"int64_param": -7}, {"string_param": "x"}):
        made = request_of(subject, parameters=message("inference.InferParameter")(**value))
        found.append(told(subject.calls().ask("ModelInfer", made).status))
    return ", ".join(found)


def _compressed(subject: Subject) -> str:
    answer = subject.calls().send(f"{SERVICE}/ModelInfer", request_of(subject).SerializeToString(), gzipped=True)
    if answer.status == GrpcCode.UNIMPLEMENTED:
        raise Skipped("UNIMPLEMENTED")
    subject.same(outputs_of(read(answer, "inference.ModelInferResponse")))
    return ""


GRPC_INFERENCE = Chapter(
    "gRPC inference",
    [
        Case(
            "raw contents",
            REQUIRED,
            "OIP: \"'raw_input_contents' must be initialized with data for each tensor in the same order as 'inputs'\"",
            _raw,
        ),
        Case(
            "typed contents",
            REQUIRED,
            'OIP: "An alternative to the "raw" representation is to use InferTensorContents"',
            _typed,
        ),
        Case(
            "answer as over REST",
            OPTIONAL,
            'OIP: "closely follows the concepts defined in the HTTP/REST API"',
            _as_rest,
        ),
        Case(
            "all outputs", REQUIRED, 'OIP: "if not specified all outputs produced by the model will be returned"', _all
        ),
        Case("requested outputs", REQUIRED, 'OIP: "The requested output tensors for the inference."', _some),
        Case("id", REQUIRED, 'OIP: "If specified will be returned in the response."', _id("request-42")),
        Case("id beyond ASCII", REQUIRED, 'OIP: "If specified will be returned in the response."', _id(ID)),
        Case("no id", OPEN, 'OIP: "The id of the inference request if one was specified."', _no_id),
        Case("each version", OPTIONAL, 'OIP: "The version of the model to use for inference."', _each_version),
        Case("unknown parameters", OPEN, 'OIP: "Currently, no parameters are defined."', _parameters),
        Case("gzip message", OPTIONAL, "gRPC: Compressed-Flag, grpc-encoding", _compressed),
    ],
)
