"""`files:DIR?glob=*.jpg`: every file of a directory is a row. Found once, written down as listings in the spool."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import msgspec

from tidemill.batch.inputs import Asked, Found, Origin
from tidemill.batch.places import InputFile, Place, walk
from tidemill.batch.sources.listing import PATH, Listed, write_listing
from tidemill.batch.spool import finish, spooled
from tidemill.errors import ConfigError, SourceError

__all__ = ["find"]

_LISTING_ROWS = 10_000
_OPTIONS = ("glob", "bytes", "text")

Entry = tuple[str, int, int]


def find(place: Place, asked: Asked) -> Found | None:
    """The listings of a directory.

    `glob` is held against a file's name, or against its path below the directory if it has a slash; several are
    separated by commas. `bytes` and `text` name the column of the content; without either both are there, under these
    names. Raises ConfigError for another option, SourceError where there is no such directory or no file.
    """
    about, patterns = _options(place)
    if asked.spool is None:
        return None
    found = spooled(asked.spool)
    if found is not None:
        return found
    names, files, nbytes = [], 0, 0
    digest = hashlib.sha256()
    for i, entries in enumerate(_groups(_entries(Path(about.root), patterns, place.shown))):
        names.append(f"listing-{i:05d}.arrow")
        try:
            write_listing(asked.spool / names[-1], about, entries)
        except UnicodeEncodeError as error:
            raise SourceError(f"{place.shown}: a file's name is not UTF-8: {error.object!r}; rename it") from None
        digest.update(msgspec.json.encode(entries))
        files += len(entries)
        nbytes += sum(size for _, size, _ in entries)
    if not files:
        raise SourceError(f"{place.shown}: holds no files" + (f" like {', '.join(patterns)}" if patterns else ""))
    read = {"files": str(files), "bytes": str(nbytes), "sha256": digest.hexdigest()}
    return finish(
        asked.spool,
        Found(
            str(asked.spool),
            "listing",
            [InputFile(name=n) for n in names],
            Origin(kind="files", uri=place.shown, read=read),
        ),
    )


def _options(place: Place) -> tuple[Listed, list[str]]:
    unknown = next((o for o in place.options if o not in _OPTIONS), None)
    if unknown is not None:
        raise ConfigError(f"source {place.shown}: unknown option {unknown}; expected {', '.join(_OPTIONS)}")
    named = {n: place.options[n] for n in ("bytes", "text") if n in place.options} or {"bytes": "bytes", "text": "text"}
    columns = list(named.values())
    if not all(columns) or PATH in columns or len(set(columns)) < len(columns):
        raise ConfigError(f"source {place.shown}: bytes and text need names of their own, other than {PATH}")
    root = Path(place.body).absolute()
    if not root.is_dir():
        raise SourceError(f"source {place.shown}: no such directory")
    patterns = [p for p in place.options.get("glob", "").split(",") if p]
    return Listed(root=str(root), bytes=named.get("bytes"), text=named.get("text")), patterns


def _entries(root: Path, patterns: list[str], shown: str) -> Iterator[Entry]:
    for path in walk(root, shown):
        if not _wanted(path, patterns):
            continue
        try:
            found = os.stat(root / path)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
        if stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            yield path, found.st_size, found.st_mtime_ns


def _wanted(path: str, patterns: list[str]) -> bool:
    name = path.rpartition("/")[2]
    return not patterns or any(fnmatch(path if "/" in p else name, p) for p in patterns)


def _groups(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    for entry in entries:
        group.append(entry)
        if len(group) == _LISTING_ROWS:
            yield group
            group = []
    if group:
        yield group
