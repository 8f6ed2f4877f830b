"""The listening sockets of another process, and what waits in their queues."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct

__all__ = ["listeners_of", "waiting"]

# Of <asm-generic/unistd.h>; the C library has no wrapper before glibc 2.36.
PIDFD_GETFD = 438
# Where <linux/tcp.h> has tcp_info.tcpi_unacked: of a listener, the connections that wait to be accepted.
UNACKED = struct.Struct("24xI")


def listeners_of(pid: int, port: int) -> list[socket.socket]:
    """Copies of the TCP sockets that a child listens with on a port; none where the kernel or a sandbox forbids it."""
    found: list[socket.socket] = []
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return found
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    continue
                copy = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, int(name), 0)
                if copy < 0:
                    continue
                sock = socket.socket(fileno=copy)
                if _listens(sock, port):
                    found.append(sock)
                else:
                    sock.close()
    except OSError:
        pass
    finally:
        os.close(pidfd)
    return found


def waiting(listener: socket.socket) -> int:
    """Connections that are complete and not accepted."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED.size)
    return int(UNACKED.unpack(info)[0])


def _listens(sock: socket.socket, port: int) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and sock.getsockname()[1] == port
