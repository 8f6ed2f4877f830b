"""Renames that publish: onto a free name only, in exchange with what is there, or over it; no reader sees a gap."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from pathlib import Path

__all__ = ["exchange", "rename_new", "write_whole"]

# linux/fs.h, fcntl.h
_AT_FDCWD = -100
_NOREPLACE = 1
_EXCHANGE = 2
# The kernel or the file system does not know the flag.
_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}


def rename_new(old: Path, new: Path) -> None:
    """Rename to a name that nothing has. Raises FileExistsError, OSError."""
    code = _renameat2(old, new, _NOREPLACE)
    if code in _UNKNOWN:
        if new.exists():
            code = errno.EEXIST
        else:
            os.rename(old, new)
            return
    if code:
        raise OSError(code, os.strerror(code), str(new))


def exchange(a: Path, b: Path) -> bool:
    """Swap two names of one file system at once. False where it cannot: then nothing was done. Raises OSError."""
    code = _renameat2(a, b, _EXCHANGE)
    if code in _UNKNOWN:
        return False
    if code:
        raise OSError(code, os.strerror(code), str(b))
    return True


def write_whole(path: Path, data: bytes) -> None:
    """Write or replace a file: a reader sees all of the old or all of the new, whichever threads write it. Not forced
    to disk. Raises OSError.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        part.write_bytes(data)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _renameat2(old: Path, new: Path, flags: int) -> int:
    """0, or the errno."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library without it
        return errno.ENOSYS
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return 0
    return ctypes.get_errno()
