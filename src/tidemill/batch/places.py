"""Places: which files an input names, and in what format an output is written."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import msgspec

from tidemill.config import Config
from tidemill.errors import ConfigError, SourceError

__all__ = ["InputFile", "SinkPlace", "SourceFormat", "find_files", "sink_place"]

SourceFormat = Literal["parquet", "csv", "jsonl"]
_SUFFIXES: dict[str, SourceFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_SINKS: dict[str, SourceFormat] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl"}
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class InputFile(Config, frozen=True, kw_only=True):
    """One file of the input: its name below `root`, and the values its `key=value` directories give it."""

    name: str
    partition: dict[str, str | None] = msgspec.field(default_factory=dict)


class SinkPlace(Config, frozen=True, kw_only=True):
    """Where the output goes: one file, or a directory of Parquet parts."""

    path: str
    format: SourceFormat
    directory: bool


def find_files(source: str) -> tuple[Path, SourceFormat, list[InputFile]]:
    """The root directory, format and files (in order of name) of a file, a directory or a glob.

    Files and directories whose names begin with `.` or `_` are left out, as other readers do. Raises SourceError
    for no files, an unknown suffix or two formats.
    """
    path = Path(source).absolute()
    if path.is_file():
        root, names = path.parent, [path.name]
    elif path.is_dir():
        root, names = path, _walk(path)
    else:
        found = sorted(glob.glob(source, recursive=True)) if glob.has_magic(source) else []
        if not found:
            raise SourceError(f"{source}: no such file or directory")
        root = Path(_fixed_part(source)).absolute()
        below = [p for f in found for p in _below(Path(f).absolute())]
        names = sorted({p.relative_to(root).as_posix() for p in below})
        names = [n for n in names if not _hidden(n)]
    if not names:
        raise SourceError(f"{source}: holds no input files")
    formats = {n: _format(n) for n in names}
    unknown = next((n for n, f in formats.items() if f is None), None)
    if unknown is not None:
        raise SourceError(f"{unknown}: not known by its suffix; expected {_known()}")
    first = formats[names[0]]
    other = next((n for n, f in formats.items() if f != first), None)
    if other is not None:
        raise SourceError(f"{source}: holds both {names[0]} and {other}; one input has one format")
    assert first is not None  # noqa: S101 - excluded above
    return root, first, [InputFile(name=n, partition=_partition(n)) for n in names]


def compression(name: str) -> str | None:
    """How a file is compressed, by its suffix (`None`: it is not)."""
    return COMPRESSIONS.get(Path(name).suffix)


def sink_place(sink: str) -> SinkPlace:
    """The format of an output by its suffix; any other name, or one that ends in `/`, is a directory of Parquet
    parts.
    """
    path = Path(os.path.abspath(sink))
    if sink.endswith("/"):
        return SinkPlace(path=str(path), format="parquet", directory=True)
    if path.suffix in COMPRESSIONS and Path(path.stem).suffix in _SUFFIXES:
        raise ConfigError(f"output {sink}: compressed output is not written; drop {path.suffix}")
    format_ = _SINKS.get(path.suffix)
    if format_ is None and path.suffix in _SUFFIXES:
        raise ConfigError(f"output {sink}: expected the suffix .parquet, .csv or .jsonl, or none for a directory")
    return SinkPlace(path=str(path), format=format_ or "parquet", directory=format_ is None)


def _walk(root: Path) -> list[str]:
    found: list[str] = []
    for base, directories, names in os.walk(root, followlinks=True):
        directories[:] = [d for d in directories if d[0] not in "._"]
        found += [(Path(base) / n).relative_to(root).as_posix() for n in names if n[0] not in "._"]
    return sorted(found)


def _below(path: Path) -> list[Path]:
    return [path / n for n in _walk(path)] if path.is_dir() else [path]


def _hidden(name: str) -> bool:
    return any(p[0] in "._" for p in name.split("/"))


def _fixed_part(pattern: str) -> str:
    """The directories before the first wildcard."""
    parts: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return os.path.join(*parts) if parts else "."


def _format(name: str) -> SourceFormat | None:
    path = Path(name)
    if path.suffix in COMPRESSIONS:
        inner = _SUFFIXES.get(Path(path.stem).suffix)
        return None if inner == "parquet" else inner
    return _SUFFIXES.get(path.suffix)


def _known() -> str:
    return f"{', '.join(_SUFFIXES)} (text also with {' or '.join(COMPRESSIONS)})"


def _partition(name: str) -> dict[str, str | None]:
    pairs = [p.split("=", 1) for p in name.split("/")[:-1] if "=" in p]
    return {unquote(k): None if v == _NULL_PARTITION else unquote(v) for k, v in pairs}
