"""What one HTTP client may cost: sizes, numbers and times. Every bound of the data plane is here."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["HttpLimits"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the HTTP data plane. Sizes are bytes, times are seconds.

    Times are watched by a sweep once a second, so they are kept to within about a second.
    """

    max_body_bytes: Count = 64 << 20
    max_receiving_bytes: Count = 1 << 30
    """Bytes of bodies that are not complete yet, of all connections together; what would be more is answered 503."""
    max_header_bytes: Count = 32 << 10
    max_headers: Count = 100
    max_target_bytes: Count = 8 << 10
    max_connections: Count = 10_000
    """Connections above this number are answered 503 with Retry-After and closed."""
    max_pipelined: Count = 64
    """Requests of one connection that a handler holds at once; more are read only when some are answered."""
    max_streams: Count = 256
    """Requests that an HTTP/2 connection may have outstanding; more are refused, for the client to try again."""
    max_handshakes: Count = 512
    """TLS handshakes in progress; for one more, the oldest is given up."""
    header_timeout: Seconds = 10.0
    """From the first byte of a request (or from the connection) to the end of its headers; also a TLS handshake."""
    body_timeout: Seconds = 10.0
    min_body_rate: Annotated[float, msgspec.Meta(gt=0)] = 1024.0
    """A body of which n bytes have come may have taken `body_timeout + n / min_body_rate` seconds."""
    keep_alive_timeout: Seconds = 75.0
    write_timeout: Seconds = 30.0
    """A client that takes not one byte of its answers for so long is cut."""
