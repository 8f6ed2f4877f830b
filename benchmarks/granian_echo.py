"""Granian's side: the least RSGI application that reads the request's body and answers it.

`granian --interface rsgi --loop uvloop benchmarks.granian_echo:app`
"""

from typing import Any

HEADERS = [("content-type", "application/json")]


async def app(scope: Any, protocol: Any) -> None:
    """Echo."""
    protocol.response_bytes(200, HEADERS, await protocol())
