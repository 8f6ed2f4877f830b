"""Who may still publish at a path: a driver that was stopped and overtaken finds something else there."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill.batch.places import DIRECTORY
from tidemill.errors import RunError

__all__ = ["Fence"]

# Seconds that a commit waits for another one in the same directory: a few renames.
_PATIENCE = 30.0
_NOTICE = 0.02


class Fence:
    """What lay at a path when an execution began."""

    def __init__(self, path: Path, *, directory: bool) -> None:
        self._path = path
        # The manifest moves with the directory; a file is itself.
        self._told_by = path / DIRECTORY / "manifest.json" if directory else path
        self._was = self._now()

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Nobody else publishes meanwhile; whether the same lies there still, or nothing.

        Raises RunError where another driver does not come to the end of its commit.
        """
        above = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._lock(above)
            yield self._now() in (None, self._was)
        finally:
            os.close(above)

    def _lock(self, above: int) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(above, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RunError(
                        f"{self._path}: another process is publishing in {self._path.parent} and comes to no end; "
                        "nothing is published; see to that one, and resume the run"
                    ) from None
                time.sleep(_NOTICE)
            except OSError:  # a file system whose directories cannot be locked
                return

    def _now(self) -> tuple[int, ...] | None:
        try:
            found = self._told_by.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
