"""What a run writes lies apart from what it reads, and takes the place of nothing that no run has made."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.batch.blobs import remote
from tidemill.batch.dead import DEAD_COLUMNS
from tidemill.batch.inputs import Found
from tidemill.batch.places import STORES, Place, SinkPlace, parse_place
from tidemill.batch.targets import Target
from tidemill.batch.targets.files import FileTarget
from tidemill.errors import ConfigError, RunError

__all__ = ["check_apart", "check_letters", "check_outside", "check_stage"]

_LETTERS = (".parquet", ".jsonl")


def check_apart(source: Place, target: Target, uri: str) -> None:
    """Before the input is looked at: the output neither is it nor lies in it. Raises ConfigError."""
    if source.scheme and remote(uri):
        whole = f"{source.scheme}://{source.body}".rstrip("/")
        if uri == whole:
            raise ConfigError(f"output {uri}: holds the input; choose another place")
        if uri.startswith(f"{whole}/"):
            raise ConfigError(f"output {uri}: lies inside the input {whole}, which would hold it the next time")
    if source.scheme or not isinstance(target, FileTarget):
        return
    path, output = Path(source.body), target.path.resolve()
    if path.exists() and path.resolve() == output:
        raise ConfigError(f"output {target.path}: holds the input; choose another place")
    if path.is_dir() and path.resolve() in output.parents:
        raise ConfigError(f"output {target.path}: lies inside the input {path}, which would hold it the next time")


def check_stage(asked: str, source: Place, target: Target) -> None:
    """A stage that was asked for lies neither in the input nor in the output. Raises ConfigError."""
    place = parse_place(asked)
    if place.scheme:
        return
    stage = Path(place.body).resolve()
    if isinstance(target, FileTarget) and target.path.resolve() in (stage, *stage.parents):
        raise ConfigError(f"stage {asked}: lies inside the output; choose another place")
    if not source.scheme and Path(source.body).is_dir() and Path(source.body).resolve() in (stage, *stage.parents):
        raise ConfigError(f"stage {asked}: lies inside the input, which would hold it the next time")


def check_letters(asked: str | None, sink: SinkPlace, target: Target) -> None:
    """Dead letters go to a place of their own, where nothing lies but earlier ones. Raises ConfigError, RunError."""
    if asked is not None:
        place = parse_place(asked)
        if place.scheme not in ("", *STORES) or (remote(asked) and not place.scheme):
            raise ConfigError(f"dead letters {place.shown}: expected a path, or an object of a store ({_stores()})")
        if Path(place.body).suffix not in _LETTERS:
            raise ConfigError(f"dead letters {place.shown}: expected the suffix {' or '.join(_LETTERS)}")
    elif sink.directory:
        return
    letters = asked or sink.dead
    if remote(letters):
        return
    path = Path(letters).absolute()
    if isinstance(target, FileTarget):
        output = target.path.resolve()
        if path.resolve() == output:
            raise ConfigError(f"dead letters {path}: is the output; choose another place")
        if output in path.resolve().parents:
            raise ConfigError(f"dead letters {path}: lies inside the output; choose another place, or none")
    if path.exists() and not _ours(path):
        raise RunError(f"{path}: exists and holds no dead letters; it is left alone; move it away")


def check_outside(found: Found, target: Target, sink: SinkPlace, letters: str | None) -> None:
    """No file of the input is what the output, or its dead letters, would replace. Raises ConfigError."""
    if remote(found.root):
        held = next((f.name for f in found.files if f"{found.root}/{f.name}/".startswith(f"{sink.uri}/")), None)
        if held is not None:
            raise ConfigError(f"output {sink.uri}: holds the input {held}; choose another place")
        return
    output = target.path.resolve() if isinstance(target, FileTarget) else None
    dead = None if remote(letters or sink.dead) else Path(letters or sink.dead).resolve()
    for file in found.files:
        path = (Path(found.root) / file.name).resolve()
        if output is not None and (path == output or output in path.parents):
            raise ConfigError(f"output {sink.uri}: holds the input {file.name}; choose another place")
        if path == dead:
            if letters is not None:
                raise ConfigError(f"dead letters {dead}: is the input; choose another place")
            raise ConfigError(f"output {sink.uri}: holds the input, {file.name}, beside it; choose another place")


def _ours(path: Path) -> bool:
    """Whether a file is one of dead letters, as far as its columns tell."""
    try:
        if path.suffix != ".jsonl":
            return set(DEAD_COLUMNS) <= set(pq.read_schema(path).names)
        with open(path, "rb") as file:
            first = file.readline(1 << 24)
        return not first or DEAD_COLUMNS[0] in json.loads(first)
    except (OSError, ValueError, TypeError, pa.ArrowException):
        return False


def _stores() -> str:
    return ", ".join(f"{s}://" for s in STORES)
