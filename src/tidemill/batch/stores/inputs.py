"""Objects as the files of an input: found by name, prefix or pattern, and read as they were when they were planned."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from tidemill.batch.inputs import Asked, Found, Origin
from tidemill.batch.places import InputFile, Place, file_format, hidden, one_format, partition_of, sink_format
from tidemill.batch.snapshot import Snapshot
from tidemill.batch.stores.connect import split_uri
from tidemill.batch.stores.names import MANIFEST, manifest_beside
from tidemill.batch.stores.objects import Entry, Objects
from tidemill.batch.stores.reader import RangeReader
from tidemill.errors import ConfigError, SourceError

__all__ = ["ObjectBlob", "find_objects", "read_manifest"]

_MAGIC = re.compile(r"[*\[]")


def find_objects(place: Place, asked: Asked) -> Found:
    """The object of this name, or every one below it, or those that match a pattern, in order of name.

    A prefix that a run was published to is read as its manifest says: those parts, and no others that lie there. In
    patterns `*` and `[…]` stay within a directory, `**` stands for any number of them. Names that begin with `.` or
    `_` are left out. Raises SourceError for no files, an unknown suffix or two formats, ConfigError for an unknown
    option.
    """
    del asked  # objects are read in place, and the plan keeps their etags
    if place.options:
        raise ConfigError(f"source {place.shown}: knows no option {next(iter(place.options))!r}")
    whole = f"{place.scheme}://{place.body}"
    split_uri(whole)
    read: dict[str, str] = {}
    if _MAGIC.search(place.body):
        root, names = _matching(whole)
    else:
        root, names, read = _named(whole)
    if not names:
        raise SourceError(f"{place.shown}: no object of this name, and none below it")
    files = [InputFile(name=n, partition=partition_of(n)) for n in names]
    return Found(root, one_format(place.shown, names), files, Origin(kind="files", uri=place.shown, read=read))


def read_manifest(uri: str) -> tuple[str, bytes] | None:
    """The manifest of the output at a prefix or an object of a store, or the one that lies there itself: where, and its
    bytes. None where there is none. Raises SourceError, ConfigError, MissingExtra.
    """
    above, _, name = uri.rstrip("/").rpartition("/")
    if name.endswith(".json"):
        objects = Objects(above, SourceError)
    elif sink_format(uri)[1]:
        objects, name = Objects(uri, SourceError), MANIFEST
    else:
        objects, name = Objects(above, SourceError), manifest_beside(name)
    data = objects.get(name)
    return None if data is None else (f"{objects.uri}/{name}", data)


class _Part(msgspec.Struct):
    name: str


class _Published(msgspec.Struct):
    """What reading an output needs of its manifest, whatever version wrote it."""

    run_id: str
    parts: list[_Part]


class ObjectBlob:
    """One object. It is read under the etag of its last snapshot, so that never two states of it are mixed."""

    path: Path | None = None

    def __init__(self, root: str, name: str) -> None:
        self.name = name
        self._objects = Objects(root, SourceError)
        self._seen: Entry | None = None

    def open(self) -> BinaryIO:
        entry = self._entry()
        return cast(BinaryIO, RangeReader(entry.size, partial(self._objects.read, entry)))

    def size(self) -> int:
        return self._entry().size

    def snapshot(self) -> Snapshot:
        self._seen = None
        entry = self._entry()
        # A store without etags still tells the time.
        time = None if entry.etag is not None else int(entry.modified.timestamp() * 1e9)
        return Snapshot(size=entry.size, etag=entry.etag, mtime_ns=time)

    def _entry(self) -> Entry:
        if self._seen is None:
            self._seen = self._objects.head(self.name)
            if self._seen is None:
                raise SourceError(f"{self.name}: is gone from {self._objects.uri}")
        return self._seen


def _named(uri: str) -> tuple[str, list[str], dict[str, str]]:
    above, _, last = uri.rstrip("/").rpartition("/")
    if not uri.endswith("/") and above.count("/") >= 2 and Objects(above, SourceError).head(last) is not None:
        return above, [last], {}
    objects = Objects(uri, SourceError)
    data = objects.get(MANIFEST)
    if data is None:
        return objects.uri, _files(objects), {}
    try:
        found = msgspec.json.decode(data, type=_Published)
    except msgspec.DecodeError as error:
        raise SourceError(
            f"{objects.uri}/{MANIFEST}: cannot be understood: {error}; name the objects by a pattern instead"
        ) from None
    return objects.uri, [p.name for p in found.parts], {"run": found.run_id}


def _matching(uri: str) -> tuple[str, list[str]]:
    scheme, _, body = uri.partition("://")
    parts = body.split("/")
    fixed = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    objects = Objects(f"{scheme}://{'/'.join(parts[:fixed])}", SourceError)
    pattern = re.compile(_regex(parts[fixed:]))
    return objects.uri, [n for n in _files(objects) if pattern.match(n)]


def _files(objects: Objects) -> list[str]:
    """Names below a prefix, without what readers leave out and the empty objects that stand for directories."""
    return [e.name for e in objects.list() if not hidden(e.name) and (e.size or file_format(e.name) is not None)]


def _regex(parts: list[str]) -> str:
    found = ""
    for part in parts:
        if part == "**":
            found += "(?:[^/]+/)*"
            continue
        for piece in re.findall(r"\*+|\[[^\]]+\]|.", part, re.DOTALL):
            if piece[0] == "*":
                found += "[^/]*"
            elif piece[0] == "[" and len(piece) > 1:
                inner = piece[1:-1].replace("\\", "\\\\")
                found += "[^" + inner[1:] + "]" if inner[0] == "!" else f"[{inner}]"
            else:
                found += re.escape(piece)
        found += "/"
    return (found.removesuffix("/") if parts[-1] != "**" else found + "[^/]+") + r"\Z"
