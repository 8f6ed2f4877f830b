"""Texts by file name, put into a directory that was not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tidemill.errors import ConfigError

__all__ = ["write"]


def write(
    out: str | os.PathLike[str], files: Mapping[str, str], copies: Mapping[str, Path] | None = None
) -> list[Path]:
    """Write texts, and copy files and directories, under `out`; the paths that were made, in order.

    Raises ConfigError if `out` holds anything: what somebody has edited is not written over.
    """
    root = Path(out)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigError(f"{root}: is not empty; name a directory that does not exist yet")
    made: list[Path] = []
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        made.append(path)
    for name, source in (copies or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, path)
        made.append(path)
    return made
