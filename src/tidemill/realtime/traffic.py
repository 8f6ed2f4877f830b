"""How many bytes went over a TCP connection, by the kernel's own count: it costs a request nothing."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

from tidemill.observability.process import ProcessCounters

__all__ = ["Meter", "traffic", "unread"]

# Of <linux/tcp.h>: tcpi_bytes_acked and tcpi_bytes_received of struct tcp_info.
BYTES = struct.Struct("=QQ")
BYTES_AT = 120


def traffic(transport: asyncio.BaseTransport) -> tuple[int, int] | None:
    """Bytes sent and confirmed, and bytes received, of a connection. None where it is not one over TCP."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return None
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_AT + BYTES.size)
        sent, received = BYTES.unpack_from(told, BYTES_AT)
    except (OSError, struct.error):
        return None
    return sent, received


class Meter:
    """Counts the bytes of one connection, as often as it is asked to, each once."""

    __slots__ = ("_received", "_sent", "_transport")

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._sent = self._received = 0

    def count(self, counts: ProcessCounters) -> None:
        """Add what has gone over the wire since the last time."""
        found = traffic(self._transport)
        if found is not None:
            sent, received = found
            counts.sent_bytes[0] += sent - self._sent
            counts.received_bytes[0] += received - self._received
            self._sent, self._received = sent, received


def unread(transport: asyncio.BaseTransport) -> bool:
    """Whether bytes of the client lie unread in the kernel."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        # Of a TLS connection that has ended.
        return False
    try:
        count = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
    except (OSError, ValueError):
        return False
    return bool(struct.unpack("i", count)[0])
