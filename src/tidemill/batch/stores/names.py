"""The names of what runs put into a store. None but the manifests' is shared by two executions."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

import msgspec

from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import DIRECTORY

__all__ = [
    "EXECUTION",
    "MANIFEST",
    "PROBE",
    "RUN",
    "dead_beside",
    "dead_directory",
    "decoded",
    "execution",
    "manifest_aside",
    "manifest_beside",
    "named_by",
    "ours",
    "part_name",
    "run_of",
]

# Below the prefix of an output that consists of parts.
MANIFEST = f"{DIRECTORY}/manifest.json"
# Small objects by which a run tries a store at its beginning.
PROBE = f"{DIRECTORY}/probe-"
# What an object says of itself, as metadata.
RUN = "tidemill-run"
EXECUTION = "tidemill-execution"
_PART = re.compile(r"part-\d{5,}-(.+)-[0-9a-f]{8}\.parquet\Z")
_DEAD = re.compile(rf"{DIRECTORY}/dead/([^/]+)-[0-9a-f]{{8}}/")
_BESIDE = re.compile(r"\.(.+)-[0-9a-f]{8}\.(?:manifest\.json|dead\.parquet)\Z")


def execution(run_id: str) -> str:
    """A name for one execution of a run."""
    return f"{run_id}-{secrets.token_hex(4)}"


def part_name(shard: int, execution: str) -> str:
    """A part below a prefix."""
    return f"part-{shard:05d}-{execution}.parquet"


def dead_directory(execution: str) -> str:
    """Where the dead letters of an execution lie below a prefix."""
    return f"{DIRECTORY}/dead/{execution}"


def ours(name: str) -> bool:
    """Whether runs put objects of such a name below a prefix."""
    return name.startswith(f"{DIRECTORY}/") or _PART.match(name) is not None


def manifest_aside(name: str, execution: str) -> str:
    """Where the manifest of an object lies before the object; readers leave names with a dot out."""
    return f".{name}.{execution}.manifest.json"


def manifest_beside(name: str) -> str:
    """Where the manifest of a published object lies."""
    return f"{name}.manifest.json"


def dead_beside(name: str, execution: str) -> str:
    """Where the dead letters of an object lie."""
    return f"{name}.{execution}.dead.parquet"


def run_of(name: str, beside: str = "") -> str | None:
    """The run that put this there: below a prefix, or beside an object of the name `beside`."""
    if beside:
        rest = name.removeprefix(".").removeprefix(beside)
        found = _BESIDE.match(rest) if rest != name else None
    else:
        found = _PART.match(name) or _DEAD.match(name)
    return found[1] if found is not None else None


def decoded(data: bytes | None) -> RunManifest | None:
    """A manifest, or None for what is none."""
    try:
        return None if data is None else msgspec.json.decode(data, type=RunManifest)
    except msgspec.DecodeError:
        return None


def named_by(manifest: RunManifest | None, uri: str) -> Callable[[str], bool]:
    """Whether the manifest of the output at a prefix names an object: a part, or dead letters. None names nothing."""
    if manifest is None:
        return lambda _: False
    parts, letters = {p.name for p in manifest.parts}, manifest.dead_letters
    return lambda name: name in parts or (letters is not None and f"{uri}/{name}".startswith(letters))
