"""Exchanges two directories in one step, so that whoever looks finds the old or the new one and never none."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

__all__ = ["exchange"]

# linux/fs.h, fcntl.h
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def exchange(first: Path, second: Path) -> None:
    """Exchange two directories of one file system: atomically where the system can (Linux: renameat2), else by
    three renames, between which `second` is absent for a moment.
    """
    if _renameat2(first, second):
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{second.name}.", dir=second.parent))
    os.rename(second, aside / "old")
    os.rename(first, second)
    os.rename(aside / "old", first)
    aside.rmdir()


def _renameat2(first: Path, second: Path) -> bool:
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    a, b = os.fsencode(first), os.fsencode(second)
    return int(call(_AT_FDCWD, a, _AT_FDCWD, b, _RENAME_EXCHANGE)) == 0
