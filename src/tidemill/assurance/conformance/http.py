"""What HTTP itself asks of the server: methods, paths, compression, chunks, connections."""

from __future__ import annotations

import gzip
import string
import zlib
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import orjson

from tidemill.assurance.conformance.case import OPEN, OPTIONAL, REQUIRED, Case, Chapter, Failed, Skipped, expect
from tidemill.assurance.conformance.subject import Subject, read_outputs
from tidemill.assurance.conformance.tensors import differ

__all__ = ["HTTP"]

UNRESERVED = string.ascii_letters + string.digits + "-._~"


def _get_infer(subject: Subject) -> str:
    reply = subject.get(subject.path() + "/infer")
    expect(reply.status >= 400, reply.told())
    return f"HTTP {reply.status}"


def _allow(subject: Subject) -> str:
    reply = subject.get(subject.path() + "/infer")
    if reply.status != 405:
        raise Skipped(f"HTTP {reply.status}")
    expect("POST" in reply.headers.get("allow", "").upper(), f"allow: {reply.headers.get('allow', 'none')}")
    return ""


def _post_metadata(subject: Subject) -> str:
    return subject.rest.send("POST", subject.path(), b"{}").told()


def _unknown_path(subject: Subject) -> str:
    return subject.get("/v2/no-such-path").told()


def _head(subject: Subject) -> str:
    reply = subject.rest.send("HEAD", "/v2")
    if reply.status in (404, 405, 501):
        raise Failed(f"HTTP {reply.status}")
    expect(subject.get("/v2").status == 200, "the answer after HEAD is not the one to its request")
    return f"HTTP {reply.status}"


def _options(subject: Subject) -> str:
    reply = subject.rest.send("OPTIONS", subject.path() + "/infer")
    return f"HTTP {reply.status}, allow: {reply.headers.get('allow', 'none')}"


def _compressed(coding: str, compress: Callable[[bytes], bytes]) -> Callable[[Subject], str]:
    def check(subject: Subject) -> str:
        reply = subject.post(compress(orjson.dumps(subject.asked())), {"content-encoding": coding})
        if 400 <= reply.status < 500:
            raise Skipped(f"HTTP {reply.status}")
        subject.same(read_outputs(reply))
        return ""

    return check


def _unknown_coding(subject: Subject) -> str:
    return subject.post(orjson.dumps(subject.asked()), {"content-encoding": "tide"}).told()


def _no_gzip(subject: Subject) -> str:
    return subject.post(b"this is no gzip", {"content-encoding": "gzip"}).told()


def _accepts(subject: Subject) -> str:
    body = orjson.dumps(subject.asked())
    # Answers below some size are not worth compressing: as many rows as the model takes together.
    try:
        subject.batched()
    except Skipped:
        pass
    else:
        many = [replace(t, array=t.array.repeat(100, axis=0)) for t in subject.sampled()]
        body = orjson.dumps({"inputs": [t.json() for t in many]})
    plain = subject.infer(body)
    reply = subject.post(body, {"accept-encoding": "gzip"})
    coding = reply.headers.get("content-encoding", "identity")
    if coding == "identity":
        raise Skipped("the answer is not compressed")
    expect(coding == "gzip", f"asked for gzip, got {coding}")
    try:
        unpacked = gzip.decompress(reply.body)
    except (OSError, EOFError, zlib.error) as error:
        raise Failed(f"the answer is no gzip: {error}") from None
    difference = differ(read_outputs(replace(reply, body=unpacked)), plain)
    expect(not subject.repeats or not difference, f"another answer than without compression: {difference}")
    return f"{len(unpacked)} bytes in {len(reply.body)}"


def _chunked(subject: Subject) -> str:
    body = orjson.dumps(subject.asked())
    parts = [body[: len(body) // 2], body[len(body) // 2 :]]
    reply = subject.rest.send("POST", subject.path() + "/infer", iter(parts), {"content-type": "application/json"})
    subject.same(read_outputs(reply))
    return ""


def _kept(subject: Subject) -> str:
    subject.get("/v2/health/live")
    expect(subject.rest.connected, "the server closes the connection after an answer")
    return ""


def _kept_after_error(subject: Subject) -> str:
    reply = subject.post(b"{")
    return f"HTTP {reply.status}, {'kept' if subject.rest.connected else 'closed'}"


def _encoded_path(subject: Subject) -> str:
    name = "".join(f"%{ord(c):02X}" if c in UNRESERVED else quote(c, safe="") for c in subject.model)
    reply = subject.get(f"/v2/models/{name}")
    expect(reply.status == 200, reply.told())
    return ""


def _type(value: str) -> Callable[[Subject], str]:
    return lambda subject: subject.post(subject.asked(), {"content-type": value}).told()[:8]


def _large(subject: Subject) -> str:
    subject.batched()
    rows = 1000
    many = [replace(t, array=t.array[:1].repeat(rows, axis=0)) for t in subject.sampled()]
    reply = subject.post({"inputs": [t.json() for t in many]})
    if reply.status != 200:
        return reply.told()
    for tensor in read_outputs(reply).values():
        expect(len(tensor.array) == rows, f"{tensor.name!r} has {len(tensor.array)} rows of {rows}")
    return "HTTP 200"


HTTP = Chapter(
    "HTTP",
    [
        Case("GET of infer", REQUIRED, 'OIP: "An inference request is made with an HTTP POST"', _get_infer),
        Case("405 says what is allowed", OPTIONAL, 'RFC 9110: "MUST generate an Allow header field in a 405"', _allow),
        Case(
            "POST of metadata", OPEN, 'OIP: "made with an HTTP GET"; what becomes of others is not said', _post_metadata
        ),
        Case("unknown path", OPEN, "OIP does not speak of other paths", _unknown_path),
        Case("HEAD", OPTIONAL, 'RFC 9110: "All general-purpose servers MUST support the methods GET and HEAD."', _head),
        Case("OPTIONS", OPEN, "RFC 9110: OPTIONS is optional", _options),
        Case(
            "gzip request",
            OPTIONAL,
            "RFC 9110: Content-Encoding; 415 where it is not taken",
            _compressed("gzip", gzip.compress),
        ),
        Case(
            "deflate request",
            OPTIONAL,
            "RFC 9110: Content-Encoding; 415 where it is not taken",
            _compressed("deflate", zlib.compress),
        ),
        Case("unknown coding", OPEN, 'RFC 9110: "MAY respond with a status code of 415"', _unknown_coding),
        Case("gzip that is none", OPEN, "RFC 9110 does not name the status", _no_gzip),
        Case("gzip answer", OPTIONAL, "RFC 9110: Accept-Encoding", _accepts),
        Case(
            "chunked request",
            OPTIONAL,
            'RFC 9112: "A recipient MUST be able to parse and decode the chunked transfer coding."',
            _chunked,
        ),
        Case(
            "connection kept",
            OPTIONAL,
            'RFC 9112: "HTTP implementations SHOULD support persistent connections."',
            _kept,
        ),
        Case("connection after an error", OPEN, "RFC 9112: a server may close the connection", _kept_after_error),
        Case(
            "percent-encoded path",
            OPTIONAL,
            'RFC 3986: "URIs that differ in the replacement of an unreserved character … are equivalent"',
            _encoded_path,
        ),
        Case(
            "media type with parameter", OPEN, "RFC 8259 defines no parameter", _type("application/json; charset=utf-8")
        ),
        Case("another media type", OPEN, "OIP asks for none but in its examples", _type("text/plain")),
        Case("a thousand rows", OPEN, "OIP sets no limit on rows", _large),
    ],
)
