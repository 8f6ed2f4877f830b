"""Blobs: the files of an input, wherever they lie."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

from tidemill.batch.snapshot import Snapshot, take_snapshot
from tidemill.errors import SourceError

__all__ = ["Blob", "LocalBlob", "blob", "remote"]


class Blob(Protocol):
    """One file of an input. `name` is below its root; `path` is where it lies on this machine, if it does."""

    name: str
    path: Path | None

    def open(self) -> BinaryIO:
        """Its bytes, seekable. Raises SourceError, or OSError while they are read."""
        ...

    def size(self) -> int:
        """Bytes. Raises SourceError."""
        ...

    def snapshot(self) -> Snapshot:
        """What it is now. Raises SourceError if it cannot be read."""
        ...


class LocalBlob:
    """A file of this machine."""

    def __init__(self, root: str, name: str) -> None:
        self.name = name
        self._path = Path(root) / name
        self.path: Path | None = self._path

    def open(self) -> BinaryIO:
        try:
            return open(self._path, "rb")
        except OSError as error:
            raise SourceError(f"{self.name}: cannot be read: {error.strerror}") from None

    def size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError as error:
            raise SourceError(f"{self.name}: cannot be read: {error.strerror}") from None

    def snapshot(self) -> Snapshot:
        return take_snapshot(self._path, self.name)


def remote(root: str) -> bool:
    """Whether this is the root of a store rather than a directory."""
    return "://" in root


def blob(root: str, name: str) -> Blob:
    """The file `name` below `root`: a directory, or a store's URI such as s3://bucket/prefix."""
    if remote(root):
        from tidemill.batch.stores.inputs import ObjectBlob

        return ObjectBlob(root, name)
    return LocalBlob(root, name)
