"""Places: URIs of inputs and outputs, which files an input names, and in what format an output is written."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from tidemill.config import Config
from tidemill.errors import ConfigError, SourceError

__all__ = [
    "DIRECTORY",
    "NULL_PARTITION",
    "STORES",
    "InputFile",
    "Mode",
    "Place",
    "SinkPlace",
    "SourceFormat",
    "file_format",
    "find_files",
    "hidden",
    "one_format",
    "parse_place",
    "partition_of",
    "sink_format",
    "walk",
]

SourceFormat = Literal["parquet", "arrow", "csv", "jsonl", "listing"]
_SUFFIXES: dict[str, SourceFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_SINKS: dict[str, SourceFormat] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".jsonl": "jsonl",
}
# Schemes whose body may be a path of this machine; no scheme is one always.
_LOCAL = frozenset({"", "delta", "duckdb", "files", "parquet", "sqlite"})
# Schemes of object stores.
STORES = ("s3", "gs", "az")
# Inside an output of several files: what its run keeps beside them. Readers leave names with an underscore out.
DIRECTORY = "_tidemill"
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
Mode = Literal["create", "overwrite", "append", "upsert"]
# A scheme of one letter is nobody's, and a name with a colon in it may be a file's.
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?(.*)\Z", re.DOTALL)
_SCHEMES = frozenset(
    (
        *("files", "parquet", "delta", "iceberg", "sqlite", "duckdb", "postgresql", "postgres"),
        *STORES,
    )
)
_ADBC = "adbc+"
_WORDS = "pass|pwd|secret|token|credential|key"
_SECRET = re.compile(rf"{_WORDS}|sig\Z", re.IGNORECASE)
# To the last @: a password that was not encoded may have such characters, too.
_USER = re.compile(r"\A([^/@:]*):(.*)@", re.DOTALL)
# In what some drivers take for a URI: `host=h password=…`, `UID=u;PWD=…`.
_PAIR = re.compile(rf"([\w-]*(?:{_WORDS})[\w-]*\s*=\s*)('[^']*'|[^;&\s]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """A URI of an input or an output.

    `scheme` is empty for a path of this machine. `body` is what stands between scheme and query. `shown` is the whole
    without passwords: the only form that goes into plans, manifests, logs and messages. `text` is as it was given.
    """

    scheme: str
    body: str = field(repr=False)
    options: dict[str, str] = field(repr=False)
    shown: str
    text: str = field(repr=False)

    @property
    def secrets(self) -> list[str]:
        """What `shown` leaves out, as it was given and as it is meant: no message of a library may pass it on."""
        _, inner, rest = self.body.partition("://")
        user = _USER.match(rest if inner else self.body)
        found = [v for k, v in self.options.items() if _SECRET.search(k)] + ([user[2]] if user is not None else [])
        found += [pair[2].strip("'") for pair in _PAIR.finditer(self.body) if self.scheme.startswith(_ADBC)]
        return [s for v in found for s in dict.fromkeys((v, unquote(v))) if s]

    @property
    def local(self) -> bool:
        """Whether this is a path of this machine. A table (`delta:`) may also lie in a store."""
        return self.scheme in _LOCAL and "://" not in self.body.removeprefix("file://")


class InputFile(Config, frozen=True, kw_only=True):
    """One file of the input: its name below `root`, and the values its `key=value` directories give it."""

    name: str
    partition: dict[str, str | None] = msgspec.field(default_factory=dict)


class SinkPlace(Config, frozen=True, kw_only=True):
    """Where the output goes.

    `uri` is without passwords (an absolute path for files), `key` are the columns of an upsert. `format` is that of the
    parts in the stage, which are written for speed where they are only `passing` through it. `directory` tells that
    manifest and dead letters lie inside the output. `dead` is where dead letters go if nothing else was asked for,
    `manifest` where the manifest lies as a file.
    """

    uri: str
    mode: Mode = "create"
    key: tuple[str, ...] = ()
    format: SourceFormat
    passing: bool = True
    directory: bool = False
    dead: str
    manifest: str


def parse_place(text: str) -> Place:
    """The parts of a URI; a text without a known scheme is a path. Raises ConfigError for an unknown `scheme://`, and
    for what no path and no URI may hold.
    """
    if not text:
        raise ConfigError("an empty text is given as a place; expected a path, or a URI")
    if "\0" in text:
        raise ConfigError(f"{text.partition(chr(0))[0]}…: holds a NUL character, which no place may")
    if unreadable(text):
        raise ConfigError(f"{text!a}: is not UTF-8, as which manifests and records keep it; rename it")
    found = _URI.match(text)
    if found is None:
        return Place("", text, {}, text, text)
    scheme, slashes, rest = found.groups()
    scheme = scheme.lower()
    body, _, query = rest.partition("?")
    # Where the query has an @, a password may have been cut by its own question mark.
    masked = _PAIR.sub(r"\1", _masked(body)) if scheme.startswith(_ADBC) else _masked(body)
    told = f"{scheme}:" if "@" in query else f"{scheme}:{slashes or ''}{masked}"
    known = scheme in _SCHEMES or scheme.startswith(_ADBC)
    if not known and not slashes:
        return Place("", text, {}, text, text)
    if "\0" in unquote(rest):
        raise ConfigError(f"{told}: holds a NUL character, which no place may")
    if not known:
        if scheme == "file":
            path = unquote(rest.removeprefix("localhost"))
            if not path.startswith("/"):
                raise ConfigError(f"{told}: expected file:///PATH; files of another host are not read or written")
            return Place("", path, {}, path, text)
        raise ConfigError(f"{told}: the scheme {scheme}:// is not known; expected a path, or {_schemes()}")
    cut = ":" in body and "@" in query and not {"/", "@"} & set(body)
    if cut or "@" in query.partition("=")[0]:
        raise ConfigError(f"{scheme}: a URI with ? or = before its @; write such characters of a password as %XX")
    pairs = parse_qsl(query, keep_blank_values=True)
    twice = next((k for i, (k, _) in enumerate(pairs) if k in dict(pairs[:i])), None)
    if twice is not None:
        raise ConfigError(f"{told}: {twice} is given twice")
    kept = "&".join(f"{quote(k)}={quote(v, safe='/,:')}" for k, v in pairs if not _SECRET.search(k))
    shown = f"{scheme}:{slashes or ''}{masked}" + (f"?{kept}" if kept else "")
    return Place(scheme, body, dict(pairs), shown, text)


def unreadable(text: str) -> bool:
    """Whether a name of the file system holds bytes that are no UTF-8: no JSON can tell of it."""
    return any("\ud800" <= c <= "\udfff" for c in text)


def _masked(body: str) -> str:
    """Without the password of `user:password@host`, with or without a scheme."""
    scheme, found, rest = body.partition("://")
    user = r"\1@"
    return f"{scheme}://{_USER.sub(user, rest)}" if found else _USER.sub(user, body)


def _schemes() -> str:
    return ", ".join(sorted(f"{s}:" for s in _SCHEMES))


def find_files(source: str) -> tuple[Path, SourceFormat, list[InputFile]]:
    """The root directory, format and files (in order of name) of a file, a directory or a glob.

    Files and directories whose names begin with `.` or `_` are left out, as other readers do. Raises SourceError
    for no files, an unknown suffix, two formats or a directory that cannot be listed.
    """
    path = Path(source).absolute()
    if path.is_file():
        root, names = path.parent, [path.name]
    elif path.is_dir():
        root, names = path, sorted(walk(path, source))
    else:
        found = sorted(glob.glob(source, recursive=True)) if glob.has_magic(source) else []
        if not found:
            raise SourceError(f"{source}: no such file or directory")
        root = Path(_fixed_part(source)).absolute()
        below = [p for f in found for p in _below(Path(f).absolute(), source)]
        names = sorted({p.relative_to(root).as_posix() for p in below})
        names = [n for n in names if not hidden(n)]
    if not names:
        raise SourceError(f"{source}: holds no input files")
    strange = next((n for n in names if unreadable(n)), None)
    if strange is not None:
        raise SourceError(f"{source}: the name of {strange!a} is not UTF-8, as which manifests keep it; rename it")
    return root, one_format(source, names), [InputFile(name=n, partition=partition_of(n)) for n in names]


def one_format(source: str, names: Sequence[str]) -> SourceFormat:
    """The format that all these files have by their suffixes. Raises SourceError for an unknown one, or for two."""
    formats = {n: file_format(n) for n in names}
    unknown = next((n for n, f in formats.items() if f is None), None)
    if unknown is not None:
        raise SourceError(f"{unknown}: not known by its suffix; expected {_known()}")
    first = formats[names[0]]
    other = next((n for n, f in formats.items() if f != first), None)
    if other is not None:
        raise SourceError(f"{source}: holds both {names[0]} and {other}; one input has one format")
    assert first is not None  # noqa: S101 - excluded above
    return first


def compression(name: str) -> str | None:
    """How a file is compressed, by its suffix (`None`: it is not)."""
    return COMPRESSIONS.get(Path(name).suffix)


def sink_format(sink: str) -> tuple[SourceFormat, bool]:
    """The format of an output by its suffix, and whether it is a directory: any other name, or one that ends in `/`, is
    a directory of Parquet parts.
    """
    path = Path(sink)
    if sink.endswith("/"):
        return "parquet", True
    if path.suffix in COMPRESSIONS and Path(path.stem).suffix in _SUFFIXES:
        raise ConfigError(f"output {sink}: compressed output is not written; drop {path.suffix}")
    format_ = _SINKS.get(path.suffix)
    if format_ is None and path.suffix.lower() in _SUFFIXES:
        raise ConfigError(
            f"output {sink}: expected the suffix .parquet, .arrow, .csv or .jsonl, or none for a directory"
        )
    return format_ or "parquet", format_ is None


def walk(root: Path, shown: str) -> Iterator[str]:
    """The files below a directory, by their names below it, in a fixed order and a directory at a time; without those
    that readers leave out. Links are followed, except to a directory that they lie in.

    Raises SourceError, which calls the input `shown`, for a directory that cannot be listed: its rows would be missing.
    """
    return _walk(str(root), "", frozenset(), shown)


def _walk(path: str, below: str, above: frozenset[tuple[int, int]], shown: str) -> Iterator[str]:
    names: list[str] = []
    directories: list[str] = []
    try:
        found = os.stat(path)
        if (found.st_dev, found.st_ino) in above:
            return
        with os.scandir(path) as entries:
            for entry in entries:
                if not hidden(entry.name):
                    (directories if entry.is_dir() else names).append(entry.name)
    except OSError as error:
        raise SourceError(f"{shown}: {below or path} cannot be listed: {error.strerror}") from None
    for name in sorted(names):
        yield below + name
    for name in sorted(directories):
        yield from _walk(f"{path}/{name}", f"{below}{name}/", above | {(found.st_dev, found.st_ino)}, shown)


def _below(path: Path, shown: str) -> list[Path]:
    return [path / n for n in walk(path, shown)] if path.is_dir() else [path]


def hidden(name: str) -> bool:
    """Whether readers leave this file out: it or a directory above it begins with `.` or `_`."""
    return any(p.startswith((".", "_")) for p in name.split("/"))


def _fixed_part(pattern: str) -> str:
    """The directories before the first wildcard."""
    parts: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return os.path.join(*parts) if parts else "."


def file_format(name: str) -> SourceFormat | None:
    """The format of a file by its suffix, or None where it is not known."""
    path = Path(name)
    if path.suffix in COMPRESSIONS:
        inner = _SUFFIXES.get(Path(path.stem).suffix)
        return None if inner in ("parquet", "arrow") else inner
    return _SUFFIXES.get(path.suffix)


def _known() -> str:
    return f"{', '.join(_SUFFIXES)} (text also with {' or '.join(COMPRESSIONS)})"


def partition_of(name: str) -> dict[str, str | None]:
    """The values of the `key=value` directories above a file; None is null."""
    pairs = [p.split("=", 1) for p in name.split("/")[:-1] if "=" in p]
    return {unquote(k): None if v == NULL_PARTITION else unquote(v) for k, v in pairs}
