"""Joining text parts by their bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["LineJoiner"]


class LineJoiner:
    """Header and parts one after the other."""

    def __init__(self, path: Path, header: bytes = b"") -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._file.write(header)

    def add(self, part: Path) -> None:
        with open(part, "rb") as file:
            shutil.copyfileobj(file, self._file, 4 << 20)

    def close(self) -> None:
        self._file.close()
