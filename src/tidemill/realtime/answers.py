"""Errors as HTTP answers: the protocol's error JSON, status, and when to come back."""

from __future__ import annotations

import math

import orjson

from tidemill.errors import Refused, TidemillError, Unauthenticated
from tidemill.realtime.encoding import WORTH_COMPRESSING, compress, preferred_encoding
from tidemill.realtime.request import JSON, Header, Request

__all__ = ["error_headers", "reply_encoded", "reply_error"]


def reply_encoded(
    request: Request, parts: list[bytes], content_type: bytes = JSON, headers: tuple[Header, ...] = ()
) -> None:
    """Answer 200 with the parts joined, compressed if the client takes that and it is worth it."""
    accepted = request.header(b"accept-encoding")
    if accepted is not None and sum(map(len, parts)) >= WORTH_COMPRESSING:
        headers = (*headers, (b"vary", b"accept-encoding"))
        coding = preferred_encoding(accepted)
        if coding is not None:
            parts = [compress(parts, coding)]
            headers = (*headers, (b"content-encoding", coding))
    request.reply(200, parts, content_type, headers)


def reply_error(request: Request, error: TidemillError) -> None:
    """Answer with `{"error": text}` and the error's own status and headers."""
    request.reply(error.status, orjson.dumps({"error": str(error)}), headers=error_headers(error))


def error_headers(error: TidemillError) -> tuple[Header, ...]:
    """What an error's answer says besides its text: a refusal when to come back, who is not known what would be."""
    if isinstance(error, Unauthenticated):
        return ((b"www-authenticate", error.challenge.encode()),)
    if not isinstance(error, Refused):
        return ()
    wait = max(0.0, error.retry_after)
    return (
        (b"retry-after", b"%d" % max(1, math.ceil(wait))),
        (b"retry-after-ms", b"%d" % max(1, math.ceil(wait * 1e3))),
    )
