"""The binary tensor data extension over REST."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from tidemill.assurance.conformance.case import OPEN, OPTIONAL, Case, Chapter, Failed, Skipped, expect, of
from tidemill.assurance.conformance.subject import JSON_SIZE, Subject, read_outputs, refusal
from tidemill.assurance.conformance.tensors import Tensor, differ, edges, unusual

__all__ = ["BINARY"]

EXTENSION = "binary_tensor_data"
HEADER = "Inference-Header-Content-Length"
BYTES = 'Binary: "For BYTES type an element is represented by a 4-byte unsigned integer giving the length"'


def _offered(subject: Subject) -> Sequence[Tensor]:
    if EXTENSION not in subject.extensions:
        raise Skipped(f"the server does not list the extension {EXTENSION}")
    return subject.sampled()


def _body(tensors: Sequence[Tensor], binary: Callable[[Tensor], bool], **others: Any) -> tuple[bytes, dict[str, str]]:
    """A request with some of its tensors behind the JSON, and the headers that say so."""
    inputs, parts = [], []
    for tensor in tensors:
        one = tensor.json()
        if binary(tensor):
            raw = tensor.raw()
            del one["data"]
            one["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        inputs.append(one)
    head = orjson.dumps({"inputs": inputs, **others})
    return head + b"".join(parts), {HEADER: str(len(head)), "content-type": "application/octet-stream"}


def _inputs(subject: Subject) -> str:
    body, headers = _body(_offered(subject), lambda _: True)
    subject.same(subject.infer(body, headers))
    return ""


def _text(subject: Subject) -> str:
    sample = _offered(subject)
    if all(t.datatype != "BYTES" for t in sample):
        raise Skipped("no input is BYTES")
    body, headers = _body(sample, lambda t: t.datatype == "BYTES")
    subject.same(subject.infer(body, headers))
    return ""


def _mixed(subject: Subject) -> str:
    sample = _offered(subject)
    if len(sample) < 2:
        raise Skipped("the model has one input")
    body, headers = _body(sample, lambda t: t is not sample[0])
    subject.same(subject.infer(body, headers))
    return ""


def _answered(subject: Subject, **asked: Any) -> tuple[Mapping[str, bool], dict[str, Tensor], Mapping[str, str]]:
    """Which outputs came as bytes, all of them, and the headers."""
    reply = subject.post(subject.asked(**asked))
    outputs = read_outputs(reply)
    size = int(reply.headers.get(JSON_SIZE, len(reply.body)))
    listed = of(reply.json(size), "outputs", list)
    return {o["name"]: "data" not in o for o in listed}, outputs, reply.headers


def _all_outputs(subject: Subject) -> str:
    _offered(subject)
    came, outputs, headers = _answered(subject, parameters={"binary_data_output": True})
    expect(all(came.values()), f"as JSON: {', '.join(n for n, binary in came.items() if not binary)}")
    expect(JSON_SIZE in headers, f"no header {HEADER}")
    subject.same(outputs)
    return ""


def _one_output(subject: Subject) -> str:
    _offered(subject)
    first, *others = [{"name": name} for name in subject.answer or {}]
    asked = [{**first, "parameters": {"binary_data": True}}, *others]
    came, outputs, _ = _answered(subject, outputs=asked)
    wrong = [name for name, binary in came.items() if binary != (name == first["name"])]
    expect(not wrong, f"not as asked: {', '.join(wrong)}")
    subject.same(outputs)
    return ""


def _override(subject: Subject) -> str:
    _offered(subject)
    first, *others = [{"name": name} for name in subject.answer or {}]
    asked = [{**first, "parameters": {"binary_data": False}}, *others]
    came, outputs, _ = _answered(subject, outputs=asked, parameters={"binary_data_output": True})
    wrong = [name for name, binary in came.items() if binary == (name == first["name"])]
    expect(not wrong, f"not as asked: {', '.join(wrong)}")
    subject.same(outputs)
    return ""


def _by_default(subject: Subject) -> str:
    _offered(subject)
    body, headers = _body(subject.sampled(), lambda _: True)
    doc = subject.post(body, headers).json()
    expect(all(of(output, "data", list) for output in of(doc, "outputs", list)), "outputs without elements")
    return ""


def _edges(subject: Subject) -> str:
    """JSON and bytes must come to the same answer where the model takes such values, whatever it makes of them."""
    sample = _offered(subject)
    told, compared = [], 0
    for place, tensor in enumerate(sample):
        changed = [*sample]
        changed[place] = edges(tensor)
        body, headers = _body(changed, lambda _: True)
        in_json = subject.post({"inputs": [t.json() for t in changed]})
        in_bytes = subject.post(body, headers)
        if in_json.status != 200 or in_bytes.status != 200:
            told.append(f"{tensor.datatype} HTTP {in_json.status} and {in_bytes.status}")
            continue
        difference = differ(read_outputs(in_json), read_outputs(in_bytes))
        expect(not subject.repeats or not difference, f"{tensor.datatype} as JSON and as bytes: {difference}")
        compared += 1
    if not compared:
        raise Skipped("the model takes no extremes: " + "; ".join(told)[:150])
    return f"{compared} inputs" + "".join(f"; {one}" for one in told)[:150]


def _wrong(change: Callable[[bytes, dict[str, str]], tuple[bytes, dict[str, str]]]) -> Callable[[Subject], str]:
    def check(subject: Subject) -> str:
        return refusal(subject.post(*change(*_body(_offered(subject), lambda _: True))))

    return check


def _length(value: Callable[[int], str]) -> Callable[[Subject], str]:
    return _wrong(lambda body, headers: (body, {**headers, HEADER: value(int(headers[HEADER]))}))


def _stated(change: Callable[[int], Any]) -> Callable[[Subject], str]:
    """A request whose first input states another size than it has, with as many bytes behind as before."""

    def check(subject: Subject) -> str:
        body, headers = _body(_offered(subject), lambda _: True)
        size = int(headers[HEADER])
        doc = orjson.loads(body[:size])
        parameters = doc["inputs"][0]["parameters"]
        parameters["binary_data_size"] = change(parameters["binary_data_size"])
        head = orjson.dumps(doc)
        return refusal(subject.post(head + body[size:], {**headers, HEADER: str(len(head))}))

    return check


def _unusual(subject: Subject) -> str:
    body, headers = _body(unusual(_offered(subject)), lambda _: True)
    reply = subject.post(body, headers)
    return "HTTP 200" if reply.status == 200 else reply.told()


def _listed(subject: Subject) -> str:
    if EXTENSION not in subject.extensions:
        raise Skipped("not listed")
    return ""


def _without_header(subject: Subject) -> str:
    _offered(subject)
    reply = subject.post(subject.asked(parameters={"binary_data_output": True}))
    if JSON_SIZE not in reply.headers:
        raise Failed(f"no header {HEADER}")
    size = reply.headers[JSON_SIZE]
    expect(
        size.isdigit() and int(size) <= len(reply.body), f"{HEADER} is {size!r}, the body has {len(reply.body)} bytes"
    )
    reply.json(int(size))
    return ""


MATCH = 'Binary: "binary_data_size : int64 parameter indicating the size of the tensor binary data, in bytes"'
GIVEN = 'Binary: "the Inference-Header-Content-Length header must be provided to give the length of the JSON object"'
BINARY = Chapter(
    "REST binary extension",
    [
        Case("extension", OPTIONAL, 'Binary: "Triton reports “binary_tensor_data” in the extensions field"', _listed),
        Case(
            "inputs in bytes",
            OPTIONAL,
            'Binary: "little-endian byte order, row major, without stride or padding between elements"',
            _inputs,
        ),
        Case("BYTES in bytes", OPTIONAL, BYTES, _text),
        Case(
            "some inputs in bytes",
            OPTIONAL,
            'Binary: "the binary tensor data in the same order as the order of the input or output tensors"',
            _mixed,
        ),
        Case(
            "all outputs in bytes",
            OPTIONAL,
            'Binary: "binary_data_output : … true if all outputs should be"',
            _all_outputs,
        ),
        Case(
            "one output in bytes",
            OPTIONAL,
            'Binary: "binary_data : … true if the output should be returned"',
            _one_output,
        ),
        Case(
            "one output in JSON",
            OPTIONAL,
            'Binary: "If "binary_data" is specified on an output it overrides this setting."',
            _override,
        ),
        Case(
            "JSON where not asked for",
            OPTIONAL,
            'Binary: "false (or not given) if the outputs should be returned as JSON"',
            _by_default,
        ),
        Case("length of the answer's JSON", OPTIONAL, GIVEN, _without_header),
        Case(
            "extremes as JSON and as bytes",
            OPTIONAL,
            'Binary: "All tensor data types are representable as binary data in the native size of the data type."',
            _edges,
        ),
        Case("NaN and infinity in bytes", OPEN, "Binary: what a model takes is not said", _unusual),
        Case("length beyond the body", OPTIONAL, GIVEN, _length(lambda size: str(size * 1000))),
        Case("length within the JSON", OPTIONAL, GIVEN, _length(lambda size: str(size - 5))),
        Case("length that is no number", OPTIONAL, GIVEN, _length(lambda _: "some")),
        Case("negative length", OPTIONAL, GIVEN, _length(lambda _: "-1")),
        Case("size too small", OPTIONAL, MATCH, _stated(lambda size: size - 1)),
        Case("size beyond the body", OPTIONAL, MATCH, _stated(lambda _: 1 << 40)),
        Case("negative size", OPTIONAL, MATCH, _stated(lambda _: -8)),
        Case("bytes left over", OPTIONAL, MATCH, _wrong(lambda body, headers: (body + b"\0" * 7, headers))),
        Case("bytes that are missing", OPTIONAL, MATCH, _wrong(lambda body, headers: (body[:-1], headers))),
    ],
)
