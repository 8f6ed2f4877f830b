"""Files that security rests on: whether others could change them, and whether they did change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from tidemill.errors import ConfigError

__all__ = ["Watched", "check_private"]

Path = str | os.PathLike[str]

# The group may read: so come the files of a Kubernetes secret to a process that is not root.
OTHERS_MAY = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP


def check_private(path: Path, what: str) -> None:
    """Raise ConfigError for a file that is not there, or that others than its owner could read or change."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror}") from None
    mode = stat.S_IMODE(status.st_mode)
    if mode & OTHERS_MAY:
        raise ConfigError(
            f"{what} {path}: its mode is {mode:04o}, so that others could read or change it: chmod 600 {path}"
        )
    mine = os.geteuid()
    if status.st_uid not in (0, mine):
        raise ConfigError(f"{what} {path}: it belongs to user {status.st_uid}, expected {mine or 'root'}")


class Watched:
    """Files, by what tells one state of them from another."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._states()

    def changed(self) -> bool:
        """Whether any is another than at the last look. A file that is gone counts as another too."""
        now = self._states()
        if now == self._seen:
            return False
        self._seen = now
        return True

    def _states(self) -> list[tuple[int, ...]]:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
