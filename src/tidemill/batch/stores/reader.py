"""A file object over ranges of one object, for readers that jump: each place that is read on from gets a window of its
own, which doubles as it goes on.
"""

from __future__ import annotations

import io
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RangeReader"]

_FIRST = 256 << 10
_LARGEST = 8 << 20
# All that is held of one open object.
_HELD = 64 << 20
# Places that are remembered; a wide table has some thousands of columns.
_PLACES = 16_384


class RangeReader(io.RawIOBase):
    """Reads an object of `size` bytes by `fetch(start, stop)`, which returns exactly those bytes or raises.

    Columns of a Parquet file are read side by side in small steps: a read that goes on where a block ended fetches
    twice as much as the last time, so that few requests are made and hardly a byte is fetched for nothing.
    """

    def __init__(self, size: int, fetch: Callable[[int, int], bytes | memoryview]) -> None:
        super().__init__()
        self._size = size
        self._fetch = fetch
        self._at = 0
        self._blocks: OrderedDict[int, memoryview] = OrderedDict()  # by offset, least recently used first
        self._ends: dict[int, int] = {}  # where a block ended, and how long it was
        self._began: list[int] = []  # where reading did not go on from a block

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._at, self._size)[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._size, self._at + size)
        if stop <= self._at:
            return b""
        pieces = []
        while self._at < stop:
            offset, block = self._block(self._at, stop)
            piece = block[self._at - offset : stop - offset]
            pieces.append(piece)
            self._at += len(piece)
            if self._at == offset + len(block):  # read to its end: it will hardly be asked for again
                self._blocks.pop(offset, None)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _block(self, at: int, stop: int) -> tuple[int, memoryview]:
        for offset in reversed(self._blocks):
            if offset <= at < offset + len(self._blocks[offset]):
                self._blocks.move_to_end(offset)
                return offset, self._blocks[offset]
        before = self._ends.pop(at, 0)
        if not before:
            insort(self._began, at)
        window = min(2 * before, _LARGEST, _HELD // (len(self._blocks) + 1))
        end = min(self._size, max(stop, min(at + max(window, _FIRST), self._next_begun(at))))
        block = memoryview(self._fetch(at, end))
        self._blocks[at] = block
        if len(self._ends) > _PLACES:
            self._ends.clear()
        if len(self._began) > _PLACES:
            self._began.clear()
        self._ends[end] = len(block)
        held = sum(map(len, self._blocks.values()))
        while held > _HELD and len(self._blocks) > 1:
            held -= len(self._blocks.popitem(last=False)[1])
        return at, block

    def _next_begun(self, at: int) -> int:
        """Where what follows has been read already, since somebody began to read there."""
        index = bisect_right(self._began, at)
        return self._began[index] if index < len(self._began) else self._size
