"""Errors as HTTP answers: the protocol's error JSON, status, and when to come back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import orjson

from tidemill.errors import SHOWN_PROBLEMS, Late, ModelError, Problem, Refused, RowsRejected, TidemillError
from tidemill.prediction.result import STATUSES
from tidemill.realtime.encoding import WORTH_COMPRESSING, compress, inflate, preferred_encoding
from tidemill.realtime.request import JSON, Header, Request

__all__ = ["body_of", "reply_encoded", "reply_error", "rows_error"]


def body_of(request: Request, most: int) -> bytes:
    """The body without its Content-Encoding, at most `most` bytes. Raises InputError."""
    coding = request.header(b"content-encoding")
    return request.body if coding is None else inflate(request.body, coding, most)


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
    """Answer with `{"error": text}` and the error's own status; a refusal also says when to come back."""
    headers: tuple[Header, ...] = ()
    if isinstance(error, Refused):
        wait = max(0.0, error.retry_after)
        headers = (
            (b"retry-after", b"%d" % max(1, math.ceil(wait))),
            (b"retry-after-ms", b"%d" % max(1, math.ceil(wait * 1e3))),
        )
    request.reply(error.status, orjson.dumps({"error": str(error)}), headers=headers)


def rows_error(problems: Sequence[Problem], total: int) -> TidemillError:
    """The error of a request of `total` rows that is refused whole for these rows. The caller's own faults first."""
    rejected = [p for p in problems if p.code not in STATUSES]
    if rejected:
        return RowsRejected(rejected, total)
    failed = [p for p in problems if p.code != "late"]
    if not failed:
        return Late(f"{len(problems)} of {total} rows were not answered before the deadline")
    shown = "; ".join(f"row {p.row}: {p.message}" for p in failed[:SHOWN_PROBLEMS])
    more = len(failed) - SHOWN_PROBLEMS
    return ModelError(f"{len(failed)} of {total} rows failed: {shown}" + (f"; and {more} more" if more > 0 else ""))
