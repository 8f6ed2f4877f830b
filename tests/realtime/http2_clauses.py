"""Clauses of the HTTP/2 specifications as test cases: what a client sends, and what becomes of it."""

import re
from typing import NamedTuple

import pytest

from tests.realtime.http2_client import END_HEADERS, Http2Client, headers, request
from tests.realtime.http_client import Running


class Ends(NamedTuple):
    """The connection ends with a GOAWAY of this code."""

    code: int


class Resets(NamedTuple):
    """Stream 1 is reset with this code; the connection lives on."""

    code: int


class Answers(NamedTuple):
    """Stream 1 is answered; the connection lives on."""

    status: int


LIVES = None
"""The frames change nothing."""

Case = tuple[str, str, bytes, object]
"""Section, what it says, what is sent, what becomes of it."""

OPEN = headers(1, request(b"POST"), END_HEADERS)
ASKED = headers(1, request())


def clauses(cases: list[Case]) -> pytest.MarkDecorator:
    """Run a test for each case, named by it."""
    names = [f"{case[0]} {re.sub(r'[^A-Za-z0-9_.-]+', ' ', case[1])[:60]}" for case in cases]
    return pytest.mark.parametrize(("says", "sent", "becomes"), [case[1:] for case in cases], ids=names)


def hold(server: Running, says: str, sent: bytes, becomes: object) -> None:
    """Send, and look what becomes of it."""
    with Http2Client(server.port) as client:
        client.send(sent)
        if isinstance(becomes, Ends):
            assert client.end() == becomes.code, says
            return
        if isinstance(becomes, Resets):
            assert client.reset_of(1) == becomes.code, says
        elif isinstance(becomes, Answers):
            assert client.answer(1).status == becomes.status, says
        client.synchronise()
        assert not client.goaways, says
