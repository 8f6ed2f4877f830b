"""The identity of one input file: size, modification time and a digest of its ends, where Parquet keeps its footer;
or, of an object in a store, its size and etag.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from stat import S_ISREG

from tidemill.config import Config
from tidemill.errors import SourceError

__all__ = ["Snapshot", "take_snapshot"]

# Small files are digested whole. Of large ones a change that keeps size, time, head and tail is not seen: finding
# it would mean reading every byte twice.
_HEAD = 64 << 10
_TAIL = 1 << 20


class Snapshot(Config, frozen=True, kw_only=True):
    """Two equal snapshots are taken to be of the same bytes. `digest` is SHA-256, hex; `etag` is the store's own."""

    size: int
    mtime_ns: int | None = None
    digest: str | None = None
    etag: str | None = None


def take_snapshot(path: Path, name: str) -> Snapshot:
    """The snapshot of a file now. Raises SourceError, which calls it `name`, if it cannot be read."""
    try:
        if not S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise SourceError(f"{name}: is no regular file")
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            digest = hashlib.sha256(file.read(_HEAD))
            file.seek(max(_HEAD, stat.st_size - _TAIL))
            digest.update(file.read(_TAIL))
    except OSError as error:
        raise SourceError(f"{name}: cannot be read: {error.strerror}") from None
    return Snapshot(size=stat.st_size, mtime_ns=stat.st_mtime_ns, digest=digest.hexdigest())
