"""HTTP/2 frames as bytes, and the numbers of RFC 9113."""

from __future__ import annotations

import struct
from enum import IntEnum

__all__ = [
    "ACK",
    "END_HEADERS",
    "END_STREAM",
    "FRAME",
    "LEAST_FRAME",
    "MOST_WINDOW",
    "NUMBER",
    "PADDED",
    "PREFACE",
    "PRIORITY",
    "WINDOW",
    "Code",
    "Fault",
    "Kind",
    "Setting",
    "goaway_frame",
    "headers_frames",
    "ping_frame",
    "read_settings",
    "reset_frame",
    "settings_frame",
    "unpadded",
    "window_frame",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Flags.
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20

# The head of a frame: length and type as one number (length << 8 | type), flags, stream.
FRAME = struct.Struct(">IBI")
PAIR = struct.Struct(">II")
SETTING = struct.Struct(">HI")
NUMBER = struct.Struct(">I")

WINDOW = 65535
"""Bytes a peer may send before it was told otherwise."""
MOST_WINDOW = 2**31 - 1
LEAST_FRAME = 16384


class Kind(IntEnum):
    """Types of frames, RFC 9113 section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Why a stream or connection ends, RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """What one peer tells the other, RFC 9113 section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Fault(Exception):
    """The connection ends, with this code and reason."""

    def __init__(self, code: Code, reason: str) -> None:
        self.code = code
        super().__init__(reason)


def settings_frame(settings: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    body = b"".join(SETTING.pack(key, value) for key, value in settings.items())
    return FRAME.pack(len(body) << 8 | Kind.SETTINGS, 0, 0) + body


def read_settings(payload: bytes) -> dict[int, int]:
    """What a SETTINGS frame says; of a setting that is repeated the last value counts."""
    return dict(SETTING.iter_unpack(payload))


def window_frame(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame: `size` bytes more may be sent on a stream, or on the connection (0)."""
    return FRAME.pack(4 << 8 | Kind.WINDOW_UPDATE, 0, stream) + NUMBER.pack(size)


def reset_frame(stream: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return FRAME.pack(4 << 8 | Kind.RST_STREAM, 0, stream) + NUMBER.pack(code)


def goaway_frame(last: int, code: int, reason: bytes = b"") -> bytes:
    """A GOAWAY frame: streams above `last` were not and will not be looked at."""
    return FRAME.pack((8 + len(reason)) << 8 | Kind.GOAWAY, 0, 0) + PAIR.pack(last, code) + reason


def ping_frame(data: bytes, flags: int = 0) -> bytes:
    """A PING frame of eight bytes, or with ACK the answer to one."""
    return FRAME.pack(8 << 8 | Kind.PING, flags, 0) + data


def headers_frames(stream: int, block: bytes, flags: int, most: int) -> bytes:
    """A header block as a HEADERS frame and, above `most` bytes, CONTINUATION frames."""
    size = len(block)
    if size <= most:
        return FRAME.pack(size << 8 | Kind.HEADERS, flags | END_HEADERS, stream) + block
    parts = [FRAME.pack(most << 8 | Kind.HEADERS, flags, stream), block[:most]]
    for start in range(most, size, most):
        piece = block[start : start + most]
        end = END_HEADERS if start + most >= size else 0
        parts += (FRAME.pack(len(piece) << 8 | Kind.CONTINUATION, end, stream), piece)
    return b"".join(parts)


def unpadded(payload: bytes) -> bytes:
    """The payload of a frame without its padding. Raises Fault."""
    if not payload or payload[0] >= len(payload):
        raise Fault(Code.PROTOCOL_ERROR, "a frame is all padding, or less")
    return payload[1 : len(payload) - payload[0]]
