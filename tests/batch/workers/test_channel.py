"""What a driver hears of a worker that goes away: nothing, wherever in a message it was."""

from __future__ import annotations

import os
import socket
import tempfile

import pytest

from tidemill.batch.workers.channel import Answered, Channel

MESSAGE = Answered(outputs=1 << 16, problems=7)


def sent(message: Answered) -> bytes:
    """The bytes of a message."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(ours).send(message)
        return theirs.recv(1 << 16)


@pytest.mark.parametrize("header", [b"", b"\0\0", b"\0\0\1"])
def test_a_message_cut_in_its_header(header: bytes) -> None:
    """Of one of 65,536 bytes, say: its first two are zeros, and make no message of none."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(header)
        theirs.close()
        assert Channel(ours).receive() is None


@pytest.mark.parametrize("cut", range(len(sent(MESSAGE))))
def test_a_message_cut_anywhere_leaves_no_file_open(cut: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as file:
        if cut:
            socket.send_fds(theirs, [sent(MESSAGE)[:cut]], [file.fileno()])
        theirs.close()
        before = len(os.listdir("/proc/self/fd"))
        assert Channel(ours).receive() is None
        assert len(os.listdir("/proc/self/fd")) == before
