"""What CSV and JSON lines share: streams over a byte range or a compressed file, and finding where lines begin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tidemill.batch.places import compression
from tidemill.batch.sources.base import Unit
from tidemill.errors import SourceError

__all__ = ["Scan", "head", "open_range", "scan_lines"]

_BLOCK = 4 << 20
UNIT_BYTES = 32 << 20
# A compressed file has no end in its own bytes: the largest range stands for all of it.
WHOLE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Scan:
    """Ranges of whole lines, with the lines in each; `quoted` and `blank` tell what makes lines differ from rows."""

    units: list[Unit]
    quoted: bool
    blank: bool


def open_range(path: Path, name: str, start: int, stop: int) -> pa.NativeFile:
    """A stream over bytes start to stop, or over all of a compressed file, decompressed."""
    try:
        packed = compression(name)
        if packed is not None:
            return pa.input_stream(str(path), compression=packed)
        file = pa.OSFile(str(path), "rb")
        return file.get_stream(start, stop - start)
    except OSError as error:
        raise SourceError(f"{name}: cannot be read: {error}") from None


def head(path: Path, name: str, nbytes: int) -> bytes:
    """The first whole lines of a file, about `nbytes` of them; more where one line is longer."""
    try:
        with open_range(path, name, 0, WHOLE) as stream:
            data: bytes = stream.read(nbytes)
            while True:
                more = stream.read(nbytes)
                if not more:
                    return data
                if b"\n" in data:
                    return data[: data.rindex(b"\n") + 1]
                data += more
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{name}: cannot be read: {str(error).splitlines()[0]}") from None


def scan_lines(path: Path) -> Scan:
    """Read a plain file once, at the speed of `memchr`, and cut it after line ends into ranges of about 32 MiB."""
    units: list[Unit] = []
    start = position = row = lines = 0
    quoted = blank = False
    last = b"\n"
    for block in _blocks(path):
        quoted = quoted or b'"' in block
        seam = last + block
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
    return Scan(units or [Unit(0, 0, 0, 0, 0)], quoted, blank)


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            yield block
