"""API keys: made here, shown once, and kept as hashes in a TOML file that only its owner writes.

A key is `tm_ID_SECRET`. The ID finds its line; the SHA-256 of the whole key is compared. Why no slow hash: decision 19.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tomli_w

from tidemill.config import Config, decode, load_toml
from tidemill.errors import ConfigError, NotFound
from tidemill.realtime.security.files import check_private
from tidemill.realtime.security.options import Scope
from tidemill.realtime.security.scopes import is_scope

__all__ = ["Key", "Keys", "KeysFile", "create_key", "read_keys", "revoke_keys"]

TOKEN = re.compile(rb"tm_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
ID_BYTES = 6
SECRET_BYTES = 32
# What a key of an unknown ID is compared with, so that it takes as long.
NOBODY = bytes(32).hex()


class Key(Config, frozen=True, kw_only=True):
    """One key as the file keeps it."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,128}\Z")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: tuple[Scope, ...]
    created: datetime
    revoked: datetime | None = None


class KeysFile(Config, frozen=True, kw_only=True):
    """The keys file: by ID, those that were revoked too."""

    format: Literal[1]
    keys: dict[Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}\Z")], Key] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a file, to be asked whose a token is."""

    by_id: dict[str, Key]

    def holder(self, token: bytes) -> Key | None:
        """The key that this is, unless it was revoked. Takes as long for a wrong one as for an unknown one."""
        match = TOKEN.fullmatch(token)
        key = self.by_id.get(match[1].decode()) if match else None
        right = hmac.compare_digest(_hash(token), NOBODY if key is None else key.sha256)
        return key if right and key is not None and key.revoked is None else None


def read_keys(path: str | os.PathLike[str]) -> Keys:
    """Read a keys file. Raises ConfigError for one that is malformed, or that others could read or change."""
    check_private(path, "keys file")
    return Keys(dict(load_toml(path, KeysFile).keys))


def create_key(path: str | os.PathLike[str], name: str, scopes: Iterable[str]) -> str:
    """Add a key to the file, which is created if it does not exist. Returns the key: nothing else keeps it.

    A name may have several, so that one can take over from another. Raises ConfigError for a wrong name or scope.
    """
    scopes = list(scopes)
    for scope in scopes:
        if not is_scope(scope):
            raise ConfigError(
                f"scope {scope!r}: expected infer, read or admin, alone or as infer:NAME or infer:PREFIX*"
            )
    id_ = secrets.token_hex(ID_BYTES)
    token = f"tm_{id_}_{secrets.token_urlsafe(SECRET_BYTES)}"
    line = {"name": name, "sha256": _hash(token.encode()), "scopes": scopes, "created": _now()}
    new = decode(line, Key, f"key {name!r}")
    file = Path(path)
    with _alone(file):
        keys = read_keys(file).by_id if file.exists() else {}
        _write(file, {**keys, id_: new})
    return token


def revoke_keys(path: str | os.PathLike[str], name: str) -> int:
    """Revoke the keys of this name or ID. Returns how many. Raises NotFound if there is none in use."""
    file = Path(path)
    with _alone(file):
        keys = read_keys(file).by_id
        found = [id_ for id_, key in keys.items() if name in (id_, key.name) and key.revoked is None]
        if not found:
            raise NotFound(f"{name}: no such key in use in {path}")
        now = _now()
        _write(file, {i: msgspec.structs.replace(k, revoked=now) if i in found else k for i, k in keys.items()})
    return len(found)


def _hash(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep others from writing into this directory at the same time: one of two new keys would be lost."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(path: Path, keys: dict[str, Key]) -> None:
    """A reader sees the old file or the new one, and nobody else ever could read either."""
    text = tomli_w.dumps(msgspec.to_builtins(KeysFile(format=1, keys=keys), builtin_types=(datetime,)))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
