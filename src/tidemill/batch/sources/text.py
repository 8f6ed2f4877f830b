"""What CSV and JSON lines share: streams over a byte range or a compressed file, and finding where lines begin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from tidemill.batch.blobs import Blob
from tidemill.batch.places import compression
from tidemill.batch.sources.base import Unit
from tidemill.errors import SourceError, first_line

__all__ = ["Scan", "check_line", "head", "open_range", "scan_lines"]

_BLOCK = 4 << 20
UNIT_BYTES = 32 << 20
LINE_BYTES = 256 << 20
# A compressed file has no end in its own bytes: the largest range stands for all of it.
WHOLE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Scan:
    """Ranges of whole lines, with the lines in each. `quoted` (there are quotes, or carriage returns that end lines by
    themselves) and `blank` tell what makes lines differ from rows.
    """

    units: list[Unit]
    quoted: bool
    blank: bool


def open_range(file: Blob, start: int, stop: int) -> pa.NativeFile:
    """A stream over bytes start to stop, or over all of a compressed file, decompressed."""
    try:
        packed = compression(file.name)
        if packed is not None:
            return pa.input_stream(str(file.path) if file.path else file.open(), compression=packed)
        whole = pa.OSFile(str(file.path), "rb") if file.path else pa.PythonFile(file.open(), "r")
        return whole.get_stream(start, min(stop, file.size()) - start)
    except OSError as error:
        raise SourceError(f"{file.name}: cannot be read: {error}") from None


def head(file: Blob, nbytes: int) -> bytes:
    """The first whole lines of a file, about `nbytes` of them; more where one line is longer."""
    try:
        with open_range(file, 0, WHOLE) as stream:
            data = bytearray(stream.read(nbytes))
            ended = b"\n" in data
            while more := stream.read(nbytes):
                if ended:
                    return bytes(data[: data.rindex(b"\n") + 1])
                ended = b"\n" in more
                data += more
                check_line(len(data), file.name)
            return bytes(data)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{file.name}: cannot be read: {first_line(error)}") from None


def check_line(nbytes: int, name: str) -> None:
    """Raises SourceError for a line that is longer than a row may be: it would be held whole."""
    if nbytes > LINE_BYTES:
        raise SourceError(f"{name}: a line has more than {LINE_BYTES >> 20} MiB; expected a row a line")


def scan_lines(file: Blob) -> Scan:
    """Read a plain file once, at the speed of `memchr`, and cut it after line ends into ranges of about 32 MiB."""
    units: list[Unit] = []
    start = position = row = lines = 0
    quoted = blank = False
    last = b"\n"
    for block in _blocks(file):
        seam = last + block
        quoted = quoted or b'"' in block or seam.count(b"\r") > seam.count(b"\r\n") + seam.endswith(b"\r")
        blank = blank or b"\n\n" in seam or b"\n\r\n" in seam or b"\r\n\r\n" in seam
        last = block[-2:]
        cut = block.rfind(b"\n") + 1
        if cut and position + cut - start >= UNIT_BYTES:
            lines += block.count(b"\n")
            units.append(Unit(start, position + cut, row, lines, position + cut - start))
            row += lines
            start, lines = position + cut, 0
        else:
            lines += block.count(b"\n")
        position += len(block)
    if position > start:
        lines += not last.endswith(b"\n")
        units.append(Unit(start, position, row, lines, position - start))
    return Scan(units or [Unit(0, 0, 0, 0, 0)], quoted or last.endswith(b"\r"), blank)


def _blocks(file: Blob) -> Iterator[bytes]:
    with open(file.path, "rb", buffering=0) if file.path else file.open() as stream:
        while block := stream.read(_BLOCK):
            yield block
