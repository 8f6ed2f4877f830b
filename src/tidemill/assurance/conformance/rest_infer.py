"""Inference over REST with the data in JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import orjson

from tidemill.assurance.conformance.case import OPEN, OPTIONAL, REQUIRED, Case, Chapter, Failed, Skipped, expect, of
from tidemill.assurance.conformance.subject import Subject, read_outputs
from tidemill.assurance.conformance.tensors import Tensor, differ, edges

__all__ = ["INFERENCE"]

ID = "42 \u00e9 \u65e5"


def _answers(subject: Subject) -> str:
    if subject.sample is None:
        raise Skipped(subject.why)
    expect(subject.answer is not None, subject.why)
    return ""


def _object(subject: Subject) -> str:
    doc = subject.post(subject.asked()).json()
    expect(of(doc, "model_name", str) == subject.model, f"model_name is {doc['model_name']!r}")
    of(doc, "outputs", list)
    return ""


def _version_told(subject: Subject) -> str:
    doc = subject.post(subject.asked()).json()
    if not isinstance(doc, dict) or "model_version" not in doc:
        raise Skipped("the answer names no version")
    version = of(doc, "model_version", str)
    expect(not subject.versions or version in subject.versions, f"{version!r}, of {', '.join(subject.versions)}")
    return version


def _as_described(subject: Subject) -> str:
    subject.sampled()
    described = {one.name: one for one in subject.outputs}
    if not described:
        raise Skipped("the metadata describes no outputs")
    for tensor in (subject.answer or {}).values():
        expect(tensor.name in described, f"output {tensor.name!r} is not in the metadata")
        one = described[tensor.name]
        expect(tensor.datatype == one.datatype, f"{tensor.name!r} is {tensor.datatype}, described as {one.datatype}")
        shape = list(tensor.array.shape)
        expect(one.fits(tensor), f"{tensor.name!r} has the shape {shape}, described as {list(one.shape)}")
    return ""


def _all(subject: Subject) -> str:
    subject.sampled()
    absent = {one.name for one in subject.outputs} - set(subject.answer or ())
    expect(not absent, f"without {', '.join(sorted(absent))}")
    return ""


def _id(id_: str) -> Callable[[Subject], str]:
    def check(subject: Subject) -> str:
        doc = subject.post(subject.asked(id=id_)).json()
        expect(of(doc, "id", str) == id_, f"the id is {doc['id']!r}")
        return ""

    return check


def _told_id(subject: Subject, **changes: object) -> str:
    reply = subject.post(subject.asked(**changes))
    if reply.status != 200:
        return f"HTTP {reply.status}"
    doc = reply.json()
    return f"the id is {doc['id']!r}" if isinstance(doc, dict) and "id" in doc else "no id"


def _empty_id(subject: Subject) -> str:
    return _told_id(subject, id="")


def _no_id(subject: Subject) -> str:
    found = _told_id(subject)
    return found if found == "no id" or found == "the id is ''" else "an id of the server's own"


def _number_id(subject: Subject) -> str:
    return _told_id(subject, id=42)


def _each_output(subject: Subject) -> str:
    subject.sampled()
    for name in subject.answer or {}:
        found = subject.infer(subject.asked(outputs=[{"name": name}]))
        expect(list(found) == [name], f"asked for {name!r}, got {', '.join(found) or 'nothing'}")
        expected = {name: (subject.answer or {})[name]}
        expect(not subject.repeats or not differ(found, expected), differ(found, expected))
    return ""


def _order(subject: Subject) -> str:
    subject.sampled()
    names = list(reversed(list(subject.answer or ())))
    if len(names) < 2:
        raise Skipped("the model has one output")
    found = list(subject.infer(subject.asked(outputs=[{"name": name} for name in names])))
    return "as asked for" if found == names else "another than asked for"


def _twice(subject: Subject) -> str:
    body = subject.asked()
    name = next(iter(subject.answer or ()))
    return subject.post({**body, "outputs": [{"name": name}, {"name": name}]}).told()[:8]


def _none(subject: Subject) -> str:
    reply = subject.post(subject.asked(outputs=[]))
    if reply.status != 200:
        return f"HTTP {reply.status}"
    doc = reply.json()
    return f"{len(of(doc, 'outputs', list))} of {len(subject.answer or ())} outputs"


def _empty_parameters(subject: Subject) -> str:
    body = subject.asked(parameters={})
    body["inputs"] = [{**one, "parameters": {}} for one in body["inputs"]]
    body["outputs"] = [{"name": name, "parameters": {}} for name in subject.answer or ()]
    subject.same(subject.infer(body))
    return ""


def _own_parameters(subject: Subject) -> str:
    body = subject.asked(parameters={"tide_string": "x", "tide_number": 1.5, "tide_boolean": True})
    return subject.post(body).told()[:8]


def _more_fields(subject: Subject) -> str:
    return subject.post(subject.asked(nobody_knows_this=1)).told()[:8]


def _nested(subject: Subject) -> str:
    sample = subject.sampled()
    if all(t.array.ndim < 2 for t in sample):
        raise Skipped("no input has two dimensions")
    subject.same(subject.infer({"inputs": [t.json(nested=True) for t in sample]}))
    return ""


def _any_order(subject: Subject) -> str:
    body = {"inputs": [dict(reversed(t.json().items())) for t in reversed(subject.sampled())]}
    subject.same(subject.infer(body))
    return ""


def _escaped(subject: Subject) -> str:
    name = subject.sampled()[0].name
    written = orjson.dumps(name)
    escaped = ('"' + "".join(f"\\u{ord(c):04x}" for c in name if ord(c) < 0x10000) + '"').encode()
    body = orjson.dumps(subject.asked(), option=orjson.OPT_INDENT_2).replace(b"\n", b"\r\n\t ")
    subject.same(subject.infer(body.replace(b'"name": ' + written, b'"name": ' + escaped)))
    return ""


def _alone(subject: Subject) -> str:
    rows = subject.batched()
    sample, whole = subject.sampled(), subject.answer or {}
    for row in range(rows):
        alone = [t.rows(slice(row, row + 1)) for t in sample]
        found = subject.infer({"inputs": [t.json() for t in alone]})
        difference = differ(found, {name: t.rows(slice(row, row + 1)) for name, t in whole.items()})
        expect(not subject.repeats or not difference, f"row {row} alone: {difference}")
    return f"{rows} rows"


def _alike(subject: Subject) -> str:
    subject.batched()
    sample = [replace(t, array=np.concatenate([t.array[:1]] * 3)) for t in subject.sampled()]
    found = subject.infer({"inputs": [t.json() for t in sample]})
    for tensor in found.values():
        first = {tensor.name: tensor.rows(slice(0, 1))}
        for row in range(1, 3):
            difference = differ({tensor.name: tensor.rows(slice(row, row + 1))}, first)
            expect(not subject.repeats or not difference, f"row {row} of three equal ones: {difference}")
    return ""


def _versions(subject: Subject) -> str:
    if not subject.versions:
        raise Skipped("the model lists no versions")
    for version in subject.versions:
        reply = subject.post(subject.asked(), path=subject.path(version) + "/infer")
        read_outputs(reply)
        told = reply.json().get("model_version", version)
        expect(told == version, f"asked for version {version!r}, answered by {told!r}")
    return ", ".join(subject.versions)


def _content_type(subject: Subject) -> str:
    found = subject.post(subject.asked()).headers.get("content-type", "none")
    expect(found.partition(";")[0].strip() == "application/json", found)
    return ""


def _edges(subject: Subject) -> str:
    told = []
    sample = subject.sampled()
    for place, tensor in enumerate(sample):
        changed: list[Tensor] = [*sample]
        changed[place] = edges(tensor)
        reply = subject.post({"inputs": [t.json() for t in changed]})
        if reply.status != 200:
            told.append(f"{tensor.datatype} HTTP {reply.status}")
        else:
            try:
                read_outputs(reply)
            except Failed as fault:
                told.append(f"{tensor.datatype}: {fault}")
    return "; ".join(told)[:200] or "taken"


INFERENCE = Chapter(
    "REST inference",
    [
        Case(
            "inference",
            REQUIRED,
            'OIP: "A successful inference request is indicated by a 200 HTTP status code." "shape", "datatype", "data"',
            _answers,
        ),
        Case(
            "response object",
            REQUIRED,
            'OIP: "model_name : The name of the model used for inference." "outputs : The output tensors."',
            _object,
        ),
        Case("model_version", OPTIONAL, 'OIP: "model_version : The specific model version used"', _version_told),
        Case(
            "outputs as described",
            REQUIRED,
            'OIP, model metadata: "outputs : The outputs produced by the model": their names, datatypes and shapes',
            _as_described,
        ),
        Case(
            "all outputs",
            REQUIRED,
            'OIP: "if not specified all outputs produced by the model will be returned"',
            _all,
        ),
        Case(
            "id",
            REQUIRED,
            'OIP: "Optional, but if specified this identifier must be returned in the response."',
            _id("request-42"),
        ),
        Case(
            "id beyond ASCII",
            REQUIRED,
            'OIP: ""id" : $string", "this identifier must be returned in the response"',
            _id(ID),
        ),
        Case("empty id", OPEN, "OIP does not say whether an empty string specifies an identifier", _empty_id),
        Case("no id", OPEN, 'OIP: "id : The "id" identifier given in the request, if any."', _no_id),
        Case("id that is no string", OPEN, 'OIP: ""id" : $string"; what becomes of others is not said', _number_id),
        Case(
            "requested outputs",
            REQUIRED,
            'OIP: "outputs : The output tensors requested for this inference."',
            _each_output,
        ),
        Case("order of outputs", OPEN, "OIP names no order of outputs", _order),
        Case("an output asked for twice", OPEN, "OIP does not speak of an output requested twice", _twice),
        Case("no output asked for", OPEN, 'OIP: "if not specified"; an empty list is not mentioned', _none),
        Case(
            "empty parameters",
            REQUIRED,
            'OIP: "parameters : An object containing zero or more parameters"',
            _empty_parameters,
        ),
        Case(
            "unknown parameters",
            OPEN,
            'OIP: "Currently no parameters are defined"; what becomes of unknown ones is not said',
            _own_parameters,
        ),
        Case("unknown fields", OPEN, "OIP does not speak of further fields", _more_fields),
        Case(
            "nested data",
            REQUIRED,
            'OIP: "Tensor data must be presented in row-major order … in their nature multi-dimensional '
            'representation, or as a flattened one-dimensional representation"',
            _nested,
        ),
        Case(
            "any order of fields and inputs",
            REQUIRED,
            'OIP: "$object … refer to the fundamental JSON types"; RFC 8259: "an unordered collection"',
            _any_order,
        ),
        Case(
            "escapes and white space",
            REQUIRED,
            'OIP: "The HTTP/REST API uses JSON"; RFC 8259: "Any character may be escaped", "Insignificant whitespace"',
            _escaped,
        ),
        Case(
            "rows alone as together",
            OPTIONAL,
            'OIP: "If the output is batched, the shape and data represents the full shape of the entire batch."',
            _alone,
        ),
        Case(
            "equal rows, equal answers",
            OPTIONAL,
            'OIP: "If the output is batched …", "Element values must be given in "linear" order": row by row',
            _alike,
        ),
        Case(
            "each version",
            OPTIONAL,
            'OIP: "v2/models/<model_name>[/versions/<model_version>]/infer", "model_version : The specific model '
            'version used for inference."',
            _versions,
        ),
        Case("content type", OPTIONAL, 'OIP, examples: "Content-Type: application/json"', _content_type),
        Case(
            "extremes of each datatype",
            OPEN,
            "OIP, tensor data types: whether a model takes each value of its datatype is the model's",
            _edges,
        ),
    ],
)
