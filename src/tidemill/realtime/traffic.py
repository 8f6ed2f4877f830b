"""How many bytes went over a TCP connection, by the kernel's own count: it costs a request nothing."""

from __future__ import annotations

import asyncio
import socket
import struct

__all__ = ["traffic"]

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
