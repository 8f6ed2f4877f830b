"""The one interface of file sinks: write a part, count what a part holds, join parts to one file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pyarrow as pa

__all__ = ["UNHELD", "Joiner", "PartWriter", "Sink"]

# What libraries raise of a value that a format has no form for: times beyond its years, zones that nobody knows.
UNHELD = (ValueError, TypeError, ArithmeticError, LookupError, pa.ArrowException)


class PartWriter(Protocol):
    """Writes one part. What it writes counts only once `close` has returned. Raises OSError as the disk does."""

    def write(self, batch: pa.RecordBatch) -> None: ...

    def close(self) -> None: ...


class Joiner(Protocol):
    """Makes one file of parts that are added in order. Raises OSError as the disk does."""

    def add(self, part: Path) -> None: ...

    def close(self) -> None: ...


class Sink(Protocol):
    """Writes one format. Holds no state, so that any process can write any part."""

    suffix: str

    def check(self, schema: pa.Schema) -> str | None:
        """Why this format cannot hold a table of this schema, in one sentence, or None."""
        ...

    def open(self, path: Path, schema: pa.Schema, stamp: bytes, *, passing: bool = False) -> PartWriter:
        """A writer of a part. `stamp` (JSON) names run and package and is kept inside where the format can.

        A `passing` part will be joined and then thrown away: it is written for speed.
        """
        ...

    def count(self, path: Path) -> int:
        """The rows a written part really holds, as the file itself tells."""
        ...

    def join(self, path: Path, schema: pa.Schema, stamp: bytes) -> Joiner:
        """A writer of the one file that holds all parts."""
        ...
