"""Joining text parts by their bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

__all__ = ["join_files"]


def join_files(header: bytes, parts: Sequence[Path], path: Path) -> None:
    """Header and parts one after the other."""
    with open(path, "wb") as out:
        out.write(header)
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, out, 4 << 20)
        out.flush()
        os.fsync(out.fileno())
