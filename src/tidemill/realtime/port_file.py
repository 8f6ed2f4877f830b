"""The file that tells where a server listens, once it is ready."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.renames import write_whole

__all__ = ["check", "write"]


def check(path: str | None) -> None:
    """Find out before anything is loaded whether the file could be written, if one is wanted. Raises ConfigError."""
    if path is None:
        return
    place = Path(path)
    trial = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        trial.touch()
        trial.unlink()
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"port_file: {path!r} cannot be written ({said}); name a file in a directory that can"
        ) from None


def write(path: str | None, address: str) -> None:
    """Say HOST:PORT there, whole or not at all, if it is wanted. Raises OSError."""
    if path is not None:
        write_whole(Path(path), f"{address}\n".encode())
