"""`server.toml`: the options of a server as a file, and what flags say instead."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill.config import decode
from tidemill.errors import ConfigError
from tidemill.realtime.options import ServeOptions

__all__ = ["read_options"]

# What is a path, and is meant from where the file lies.
PATHS = (
    ("package",),
    ("packages",),
    ("repository", "directory"),
    ("port_file",),
    ("counters_dir",),
    ("tls", "cert"),
    ("tls", "key"),
    ("tls", "client_ca"),
    ("auth", "keys"),
    ("auth", "jwt", "public_key"),
    ("auth", "jwt", "secret_file"),
    ("auth", "jwt", "jwks"),
)


def read_options(file: Path | None, flags: Mapping[str, Any]) -> ServeOptions:
    """The options of a file, each field that flags give replaced by theirs. Relative paths of the file start at its
    directory. Raises ConfigError naming every problem with its path.
    """
    if file is None:
        return decode(flags, ServeOptions, "serve")
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file.name}: {error}") from None
    decode(raw, ServeOptions, file.name)
    for path in PATHS:
        _from(file.resolve().parent, raw, path)
    return decode(_merged(raw, flags), ServeOptions, f"{file.name} with the flags given")


def _from(root: Path, raw: dict[str, Any], path: tuple[str, ...]) -> None:
    *sections, key = path
    for section in sections:
        raw = raw.get(section, {})
    value = raw.get(key)
    if isinstance(value, str):
        if "://" not in value:
            raw[key] = str(root / value)
    elif value is not None:
        raw[key] = [str(root / one) for one in value]


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        before = out.get(key)
        out[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return out
