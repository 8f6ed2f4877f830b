"""Calls over gRPC that must fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tidemill.assurance.conformance.case import OPEN, OPTIONAL, REQUIRED, Case, Chapter, Failed, expect
from tidemill.assurance.conformance.grpc_about import FAILURE, live, refused, seen, told, versions_of
from tidemill.assurance.conformance.grpc_infer import request_of
from tidemill.assurance.conformance.rest_about import NOBODY
from tidemill.assurance.conformance.subject import Subject
from tidemill.assurance.conformance.tensors import Tensor, unusual
from tidemill.assurance.conformance.wire import SERVICE
from tidemill.realtime.protocols.grpc.messages import message
from tidemill.realtime.protocols.grpc.status import GrpcCode

__all__ = ["GRPC_ERRORS", "MATCH", "first", "with_shape"]

MATCH = 'OIP: "the size of this content must match what is expected by the tensor\'s shape and data type"'
TYPED = 'OIP: "in a format that matches the tensor\'s data type", "The size must match what is expected"'


def first(change: Callable[[Any], None]) -> Callable[[Subject], Any]:
    """The sample as raw contents, changed."""

    def made(subject: Subject) -> Any:
        found = request_of(subject)
        change(found)
        return found

    return made


def _typed_first(change: Callable[[Any], None]) -> Callable[[Subject], Any]:
    def made(subject: Subject) -> Any:
        found = request_of(subject, typed=True)
        change(found)
        return found

    return made


def with_shape(*shape: int) -> Callable[[Any], None]:
    """Give the first input another shape than its contents have."""

    def change(made: Any) -> None:
        rest = list(made.inputs[0].shape)[1:]
        del made.inputs[0].shape[:]
        made.inputs[0].shape.extend([*shape, *rest])

    return change


def _one_more(made: Any) -> None:
    """An element more in the first input than its shape has."""
    for _, values in made.inputs[0].contents.ListFields():
        values.append(values[0])


def _another_field(made: Any) -> None:
    """The elements of the first input in a field of another datatype."""
    wrong = "fp64_contents" if made.inputs[0].datatype != "FP64" else "int_contents"
    (_, values) = made.inputs[0].contents.ListFields()[0]
    count = len(values)
    made.inputs[0].ClearField("contents")
    getattr(made.inputs[0].contents, wrong).extend([1] * count)


def _both(made: Any) -> None:
    made.inputs[0].contents.fp32_contents.append(1)


def _drop(made: Any) -> None:
    """Without the first input."""
    del made.inputs[0], made.raw_input_contents[0]


def _rename(made: Any) -> None:
    made.inputs[0].name = NOBODY


def _other_type(made: Any) -> None:
    made.inputs[0].datatype = "FP31"


def _garbage(subject: Subject) -> str:
    answer = subject.calls().send(f"{SERVICE}/ModelInfer", b"\xff" * 40)
    return told(answer.status)


def _unknown_method(subject: Subject) -> str:
    answer = subject.calls().send(f"{SERVICE}/ModelGuess", b"")
    expect(answer.status == GrpcCode.UNIMPLEMENTED, told(answer.status))
    return ""


def _of_tensors(subject: Subject, tensors: Sequence[Tensor]) -> Any:
    made = message("inference.ModelInferRequest")(model_name=subject.model)
    for tensor in tensors:
        made.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        made.raw_input_contents.append(tensor.raw())
    return made


def _no_rows(subject: Subject) -> Any:
    subject.calls()
    subject.batched()
    return _of_tensors(subject, [replace(t, array=t.array[:0]) for t in subject.sampled()])


def _unusual(subject: Subject) -> Any:
    subject.calls()
    return _of_tensors(subject, unusual(subject.sampled()))


def _twice(subject: Subject) -> Any:
    subject.calls()
    return _of_tensors(subject, [*subject.sampled(), subject.sampled()[0]])


def _still(subject: Subject) -> str:
    try:
        return live(subject)
    except Failed as fault:
        raise Failed(f"after the cases before this one: {fault}") from None


def _cut(made: Any) -> None:
    """The first input's raw contents, without their last byte."""
    made.raw_input_contents[0] = made.raw_input_contents[0][:-1]


GRPC_ERRORS = Chapter(
    "gRPC errors",
    [
        Case("unknown model", REQUIRED, FAILURE, refused("ModelInfer", lambda s: request_of(s, model_name=NOBODY))),
        Case(
            "unknown version",
            REQUIRED,
            FAILURE,
            refused("ModelInfer", lambda s: request_of(s, model_version="987654321") if versions_of(s) else None),
        ),
        Case(
            "a missing input",
            REQUIRED,
            FAILURE,
            refused("ModelInfer", first(_drop)),
        ),
        Case("another input's name", REQUIRED, FAILURE, refused("ModelInfer", first(_rename))),
        Case("unknown datatype", REQUIRED, FAILURE, refused("ModelInfer", first(_other_type))),
        Case(
            "unknown output",
            REQUIRED,
            FAILURE,
            refused("ModelInfer", lambda s: request_of(s, outputs=[{"name": NOBODY}])),
        ),
        Case("raw of another size", REQUIRED, MATCH, refused("ModelInfer", first(_cut))),
        Case(
            "raw for fewer inputs",
            REQUIRED,
            "OIP: \"initialized with data for each tensor in the same order as 'inputs'\"",
            refused("ModelInfer", first(lambda m: m.raw_input_contents.pop())),
        ),
        Case(
            "raw for more inputs",
            OPEN,
            "OIP: \"initialized with data for each tensor in the same order as 'inputs'\"",
            seen("ModelInfer", first(lambda m: m.raw_input_contents.append(b"1234"))),
        ),
        Case(
            "raw and typed",
            REQUIRED,
            'OIP: "If this field is specified then InferInputTensor::contents must not be specified for any input '
            'tensor."',
            refused("ModelInfer", first(_both)),
        ),
        Case("typed of another size", REQUIRED, TYPED, refused("ModelInfer", _typed_first(_one_more))),
        Case("typed in another field", REQUIRED, TYPED, refused("ModelInfer", _typed_first(_another_field))),
        Case("negative dimension", REQUIRED, MATCH, refused("ModelInfer", first(with_shape(-1)))),
        Case("no rows", OPEN, "OIP does not speak of empty batches", seen("ModelInfer", _no_rows)),
        Case("NaN and infinity", OPEN, "OIP does not speak of them", seen("ModelInfer", _unusual)),
        Case("an input sent twice", OPEN, "OIP does not speak of two inputs of one name", seen("ModelInfer", _twice)),
        Case("bytes that are no message", OPEN, "gRPC names no status for a message that cannot be read", _garbage),
        Case("unknown method", OPTIONAL, 'gRPC: "Method not found", UNIMPLEMENTED', _unknown_method),
        Case("alive", REQUIRED, 'OIP: "indicates if the inference server is able to receive and respond"', _still),
    ],
)
