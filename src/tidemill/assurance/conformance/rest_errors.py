"""Requests over REST that must fail, and requests of which the protocol does not say whether they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from tidemill.assurance.conformance.case import OPEN, OPTIONAL, REQUIRED, Case, Chapter, Skipped, expect
from tidemill.assurance.conformance.rest_about import NOBODY
from tidemill.assurance.conformance.subject import Subject, refusal
from tidemill.assurance.conformance.tensors import Tensor

__all__ = ["ERRORS", "LEFT_OPEN", "WHOLE", "first", "must_fail", "shaped", "still_answers"]

FAILED = (
    'OIP: "A failed inference request must be indicated by an HTTP error status (typically 400). The HTTP body must '
    'contain the $inference_error_response object."'
)
WHOLE = 'OIP: "the shape and data must represent the full shape and contents of the entire batch"'
DIMENSION = 'OIP: "Each dimension must be an integer representable as an unsigned 64-bit integer value."'
OTHER_TYPE = {"BYTES": "INT32", "BOOL": "FP32", "FP32": "INT32", "INT64": "BYTES"}
NESTING = 1000
Body = Callable[[Subject], Any]


def must_fail(name: str, clause: str, body: Body) -> Case:
    """A request that must be refused with an error status and the error object."""

    def check(subject: Subject) -> str:
        reply = subject.post(body(subject))
        told = refusal(reply)
        subject.refused[name] = reply.status
        return told

    return Case(name, REQUIRED, clause, check)


def _left_open(name: str, clause: str, body: Body) -> Case:
    def check(subject: Subject) -> str:
        reply = subject.post(body(subject))
        return "HTTP 200" if reply.status == 200 else f"HTTP {reply.status}: {_sentence(reply.body)}".rstrip(": ")

    return Case(name, OPEN, clause, check)


def _sentence(body: bytes) -> str:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:60].decode(errors="replace")
    return str(found.get("error", found) if isinstance(found, dict) else found)[:80]


def first(**changes: Any) -> Body:
    """The sample, with some fields of its first input changed; None takes one away."""

    def body(subject: Subject) -> Any:
        first, *others = subject.asked()["inputs"]
        told = {name: value for name, value in {**first, **changes}.items() if value is not None}
        return {"inputs": [told, *others]}

    return body


def shaped(shape: Callable[[Tensor], list[Any]]) -> Body:
    """The sample, with another shape of its first input that its data does not have."""
    return lambda subject: first(shape=shape(subject.sampled()[0]))(subject)


def _sized(tensor: Tensor, by: int) -> list[Any]:
    """The tensor's data with elements more or less than its shape has."""
    data: list[Any] = tensor.json()["data"]
    if by > 0:
        return data + data[:1] * by
    if not data:
        raise Skipped("the sample has no elements")
    return data[:by]


def _other_size(subject: Subject) -> Any:
    for place, one in enumerate(subject.inputs):
        fixed = [axis for axis, d in enumerate(one.shape) if d > 0]
        if fixed and place < len(subject.sampled()):
            tensor = subject.sampled()[place]
            shape = list(tensor.array.shape)
            shape[fixed[-1]] += 1
            changed = [t.json() for t in subject.sampled()]
            count = 1
            for d in shape:
                count *= d
            changed[place] |= {"shape": shape, "data": (changed[place]["data"] * 2 * len(shape))[:count]}
            return {"inputs": changed}
    raise Skipped("every dimension of the inputs may have any size")


def _no_such_version(subject: Subject) -> str:
    if not subject.versions:
        raise Skipped("the model lists no versions")
    reply = subject.post(subject.asked(), path=subject.path("987654321") + "/infer")
    told = refusal(reply)
    subject.refused["infer: unknown version"] = reply.status
    return told


def _no_such_model(subject: Subject) -> str:
    reply = subject.post(subject.asked(), path=subject.path(model=NOBODY) + "/infer")
    told = refusal(reply)
    subject.refused["infer: unknown model"] = reply.status
    return told


def _clients_fault(subject: Subject) -> str:
    if not subject.refused:
        raise Skipped("no request was refused")
    wrong = [f"{name} {status}" for name, status in subject.refused.items() if status >= 500]
    expect(not wrong, ", ".join(wrong))
    return f"{len(subject.refused)} requests"


def still_answers(subject: Subject) -> str:
    """The sample has the answer that it had."""
    subject.same(subject.infer(subject.asked()))
    return ""


def _deep(subject: Subject) -> Any:
    body = orjson.dumps(first(data=[])(subject))
    return body.replace(b'"data":[]', b'"data":' + b"[" * NESTING + b"1" + b"]" * NESTING, 1)


def _ragged(subject: Subject) -> Any:
    sample = subject.sampled()
    for place, tensor in enumerate(sample):
        if tensor.array.ndim == 2 and tensor.array.shape[0] > 1 and tensor.array.shape[1] > 1:
            changed = [t.json() for t in sample]
            data = changed[place]["data"]
            changed[place]["data"] = [data[:-1], data[-1:]]
            return {"inputs": changed}
    raise Skipped("no input has two dimensions")


def _float_element(value: bytes) -> Body:
    """The sample with one element of a float input written as told."""

    def body(subject: Subject) -> Any:
        sample = subject.sampled()
        for place, tensor in enumerate(sample):
            if tensor.datatype in ("FP32", "FP64"):
                changed = [t.json() for t in sample]
                changed[place]["data"][0] = "put it here"
                return orjson.dumps({"inputs": changed}).replace(b'"put it here"', value)
        raise Skipped("no input is FP32 or FP64")

    return body


def _integer_element(value: Callable[[Tensor], Any]) -> Body:
    def body(subject: Subject) -> Any:
        sample = subject.sampled()
        for place, tensor in enumerate(sample):
            if tensor.array.dtype.kind in "iu":
                changed = [t.json() for t in sample]
                changed[place]["data"][0] = value(tensor)
                return {"inputs": changed}
        raise Skipped("no input is an integer")

    return body


def _no_rows(subject: Subject) -> Any:
    subject.batched()
    return {"inputs": [replace(t, array=t.array[:0]).json() for t in subject.sampled()]}


def _beyond(tensor: Tensor) -> int:
    return 1 << (8 * tensor.array.dtype.itemsize)


ERRORS = Chapter(
    "REST errors",
    [
        Case("infer: unknown model", REQUIRED, FAILED, _no_such_model),
        Case("infer: unknown version", REQUIRED, FAILED, _no_such_version),
        must_fail(
            "empty body", 'OIP: "$inference_request, is required in the HTTP body of the POST request"', lambda _: b""
        ),
        must_fail("no JSON", FAILED, lambda _: b'{"inputs": [}'),
        must_fail("half of the JSON", FAILED, lambda s: orjson.dumps(s.asked())[:-10]),
        must_fail("JSON that is no object", 'OIP: "$inference_request = { … }"', lambda s: [s.asked()]),
        must_fail("no inputs", 'OIP: ""inputs" : [ $request_input, ... ]", not #optional', lambda _: {}),
        must_fail("inputs that are no array", 'OIP: ""inputs" : [ $request_input, ... ]"', lambda _: {"inputs": 7}),
        must_fail("an input that is no object", 'OIP: "$request_input"', lambda _: {"inputs": ["x"]}),
        must_fail("empty inputs", 'OIP: "inputs : The inputs required by the model."', lambda _: {"inputs": []}),
        must_fail(
            "a missing input",
            'OIP: "inputs : The inputs required by the model."',
            lambda s: {"inputs": s.asked()["inputs"][1:]},
        ),
        must_fail("another input's name", 'OIP: "inputs : The inputs required by the model."', first(name=NOBODY)),
        must_fail("input without name", 'OIP: ""name" : $string", not #optional', first(name=None)),
        must_fail("input without shape", 'OIP: ""shape" : [ $number, ... ]", not #optional', first(shape=None)),
        must_fail("input without datatype", 'OIP: ""datatype" : $string", not #optional', first(datatype=None)),
        must_fail("input without data", 'OIP: ""data" : $tensor_data", not #optional', first(data=None)),
        must_fail("data that is no array", 'OIP: "Tensor data … is provided in a JSON array."', first(data=5)),
        must_fail("shape that is no array", 'OIP: ""shape" : [ $number, ... ]"', first(shape=5)),
        must_fail("unknown datatype", 'OIP: "as defined in Tensor Data Types"', first(datatype="FP31")),
        must_fail("too few elements", WHOLE, lambda s: first(data=_sized(s.sampled()[0], -1))(s)),
        must_fail("too many elements", WHOLE, lambda s: first(data=_sized(s.sampled()[0], 1))(s)),
        must_fail("no elements", WHOLE, first(data=[])),
        must_fail(
            "another size than described",
            'OIP, model metadata: "The shape of the tensor. Variable-size dimensions are specified as -1."',
            _other_size,
        ),
        must_fail("negative dimension", DIMENSION, shaped(lambda t: [-1, *t.array.shape[1:]])),
        must_fail("two negative dimensions", DIMENSION, shaped(lambda t: [-d for d in t.array.shape])),
        must_fail("fractional dimension", DIMENSION, shaped(lambda t: [1.5, *t.array.shape[1:]])),
        must_fail(
            "dimension over 64 bits",
            DIMENSION,
            lambda s: orjson.dumps(shaped(lambda t: ["big", *t.array.shape[1:]])(s)).replace(
                b'"big"', b"1" + b"0" * 30
            ),
        ),
        must_fail(
            "unknown output",
            'OIP: "outputs : The output tensors requested": one that the model does not have',
            lambda s: s.asked(outputs=[{"name": NOBODY}]),
        ),
        must_fail(
            "outputs that are no array", 'OIP: ""outputs" : [ $request_output, ... ]"', lambda s: s.asked(outputs=7)
        ),
        Case(
            "told to be the client's",
            OPTIONAL,
            'RFC 9110: "4xx (Client Error) … the client seems to have erred"; OIP: "typically 400"',
            _clients_fault,
        ),
        Case(
            "answers as before",
            REQUIRED,
            'OIP: "A successful inference request is indicated by a 200 HTTP status code", after failed ones too',
            still_answers,
        ),
    ],
)
LEFT_OPEN = Chapter(
    "REST, left open",
    [
        _left_open(
            "no rows", "OIP: a dimension of 0 is an unsigned integer; what an empty batch means is not said", _no_rows
        ),
        _left_open("NaN", "RFC 8259 has no NaN; OIP does not speak of it", _float_element(b"NaN")),
        _left_open("Infinity", "RFC 8259 has no infinities; OIP does not speak of them", _float_element(b"Infinity")),
        _left_open(
            "null",
            'OIP: elements "may be an integer, floating-point number, string or boolean"',
            _float_element(b"null"),
        ),
        _left_open(
            "1e999",
            'RFC 8259: "allows implementations to set limits on the range and precision of numbers"',
            _float_element(b"1e999"),
        ),
        _left_open(
            "a string for a number", 'OIP: "coerce each element … or return an error"', _float_element(b'"1.5"')
        ),
        _left_open(
            "a fraction for an integer",
            'OIP: "coerce each element … or return an error"',
            _integer_element(lambda _: 1.5),
        ),
        _left_open(
            "a float for an integer", 'OIP: "coerce each element … or return an error"', _integer_element(lambda _: 1.0)
        ),
        _left_open(
            "an integer out of range", 'OIP: "coerce each element … or return an error"', _integer_element(_beyond)
        ),
        _left_open(
            "another datatype than described",
            "OIP does not say whether a tensor of another datatype is converted",
            lambda s: first(datatype=OTHER_TYPE.get(s.sampled()[0].datatype, "FP32"))(s),
        ),
        _left_open("nested, but ragged", "OIP: the multi-dimensional form has the shape of the tensor", _ragged),
        _left_open(f"data nested {NESTING} deep", 'RFC 8259: "may set limits on the maximum depth of nesting"', _deep),
        _left_open("empty shape", "OIP does not speak of tensors without dimensions", first(shape=[])),
        _left_open(
            "an input sent twice",
            "OIP does not speak of two inputs of one name",
            lambda s: {"inputs": [*s.asked()["inputs"], s.asked()["inputs"][0]]},
        ),
        _left_open(
            "an input that nobody asked for",
            'OIP: "inputs : The inputs required by the model"; further ones are not mentioned',
            lambda s: {
                "inputs": [*s.asked()["inputs"], {"name": NOBODY, "shape": [2], "datatype": "FP32", "data": [1, 2]}]
            },
        ),
        _left_open(
            "a key twice",
            'RFC 8259: "behavior of software that receives such an object is unpredictable"',
            lambda s: orjson.dumps(s.asked())[:-1] + b',"inputs":' + orjson.dumps(s.asked()["inputs"]) + b"}",
        ),
        _left_open(
            "byte order mark", 'RFC 8259: parsers "MAY ignore" one', lambda s: b"\xef\xbb\xbf" + orjson.dumps(s.asked())
        ),
        _left_open(
            "text that is no UTF-8",
            'RFC 8259: text "MUST be encoded using UTF-8"; what becomes of other text is not said',
            lambda s: orjson.dumps(s.asked(id="put it here")).replace(b"put it here", b"\xff\xfe"),
        ),
        _left_open(
            "a megabyte of white space",
            'RFC 8259: "may set limits on the size of texts"',
            lambda s: b" " * (1 << 20) + orjson.dumps(s.asked()),
        ),
        Case(
            "answers afterwards",
            REQUIRED,
            'OIP: "A successful inference request is indicated by a 200 HTTP status code", after failed ones too',
            still_answers,
        ),
    ],
)
