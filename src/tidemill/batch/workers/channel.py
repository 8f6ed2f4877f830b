"""What a driver and its worker processes tell each other: small messages over a socket, tables in shared memory."""

from __future__ import annotations

import io
import mmap
import os
import socket
import tempfile
from collections.abc import Sequence

import msgspec
import pyarrow as pa

from tidemill.errors import Problem

__all__ = ["Answered", "Ask", "Begin", "Channel", "Misread", "Ready", "Shared", "Unable"]

_MOST = 1 << 20
# Bytes of the length that a message begins with.
_HEAD = 4
_MOST_FDS = 2
_PROBLEMS = msgspec.msgpack.Decoder(list[Problem])


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load this package, which must have the fingerprint, and answer with these outputs of it.

    `call_rows` bounds one model call; `tries` are those of a call that fails for a moment. `parent` is the
    process without which there is nothing to do. The heartbeat's memory comes with it.
    """

    package: str
    fingerprint: str
    outputs: tuple[str, ...]
    call_rows: int | None
    tries: int
    parent: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The package is loaded and has answered its samples."""


class Unable(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It is not, and has not."""

    text: str


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Answer rows `start` to before `stop` of the table that comes with it."""

    start: int
    stop: int


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answers come with it: a table of the rows that have one, then the problems of the others."""

    outputs: int
    problems: int


class Misread(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The table cannot be understood. `row` is that of the table where it is known; `text` calls it `row N`."""

    text: str
    row: int | None


Message = Begin | Ready | Unable | Ask | Answered | Misread


class Channel:
    """One end of a conversation in which the two take turns."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Message)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Raises OSError when the other end is gone."""
        data = self._encoder.encode(message)
        framed = len(data).to_bytes(_HEAD, "little") + data
        sent = socket.send_fds(self.socket, [framed], fds)
        if sent < len(framed):
            self.socket.sendall(framed[sent:])

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and the files that came with it, which are the caller's to close; None where the other end
        is gone, be it in the middle of a message.
        """
        fds: list[int] = []
        try:
            head, fds, _, _ = socket.recv_fds(self.socket, _HEAD, _MOST_FDS)
            head += self._exactly(_HEAD - len(head))
            body = self._exactly(int.from_bytes(head, "little"))
        except ConnectionError:
            _close(fds)
            return None
        return self._decoder.decode(body), fds

    def _exactly(self, length: int) -> bytes:
        """So many bytes. Raises ConnectionError where the other end is gone before."""
        found = b""
        while len(found) < length:
            more = self.socket.recv(min(_MOST, length - len(found)))
            if not more:
                raise ConnectionAbortedError
            found += more
        return found

    def close(self) -> None:
        self.socket.close()


class Shared:
    """A file in memory that lives as long as somebody has it open or mapped."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _nameless() if fd is None else fd

    def write(self, batch: pa.RecordBatch, problems: Sequence[Problem] = ()) -> tuple[int, int]:
        """A table as an Arrow IPC stream, then problems; the bytes of each."""
        with io.FileIO(self.fd, "wb", closefd=False) as file:
            with pa.PythonFile(file, "w") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            outputs = os.lseek(self.fd, 0, os.SEEK_CUR)
            told = msgspec.msgpack.encode(problems) if problems else b""
            view = memoryview(told)
            while view:
                view = view[os.write(self.fd, view) :]
        return outputs, len(told)

    def read(self) -> pa.RecordBatch:
        """The table, without a copy: its memory is given back with the last array of it."""
        with pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(self.map()))) as reader:
            return reader.read_next_batch()

    def map(self, *, write: bool = False) -> mmap.mmap:
        """The whole of it as memory."""
        return mmap.mmap(self.fd, 0, prot=mmap.PROT_READ | (mmap.PROT_WRITE if write else 0))

    def read_problems(self, sizes: Answered) -> list[Problem]:
        """What was written behind the table."""
        if not sizes.problems:
            return []
        found: list[Problem] = _PROBLEMS.decode(os.pread(self.fd, sizes.problems, sizes.outputs))
        return found

    def close(self) -> None:
        os.close(self.fd)


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("tidemill-batch")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
