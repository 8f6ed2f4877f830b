"""Requests that have been seen to end a server's process: only sent where they are asked for."""

from __future__ import annotations

from tidemill.assurance.conformance.case import REQUIRED, Case, Chapter
from tidemill.assurance.conformance.grpc_about import refused
from tidemill.assurance.conformance.grpc_errors import MATCH, with_shape
from tidemill.assurance.conformance.grpc_errors import first as first_of_call
from tidemill.assurance.conformance.rest_errors import WHOLE, first, must_fail, shaped, still_answers

__all__ = ["HOSTILE"]

HUGE = 1 << 62
OVERFLOWING = [1 << 63, 2]

HOSTILE = Chapter(
    "hostile",
    [
        Case("gRPC: huge dimension", REQUIRED, MATCH, refused("ModelInfer", first_of_call(with_shape(HUGE)))),
        must_fail("shape whose size overflows", WHOLE, first(shape=OVERFLOWING, data=[])),
        must_fail("huge dimension", WHOLE, shaped(lambda t: [HUGE, *t.array.shape[1:]])),
        Case(
            "answers as before",
            REQUIRED,
            'OIP: "A successful inference request is indicated by a 200 HTTP status code", after failed ones too',
            still_answers,
        ),
    ],
)
