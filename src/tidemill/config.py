"""TOML files decoded into frozen msgspec structs: unknown keys refused, all errors at once, each with its path."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from tidemill.errors import ConfigError

__all__ = ["Config", "decode", "load_toml"]

T = TypeVar("T")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every configuration struct. What has its default value is not written out."""


def load_toml(path: str | os.PathLike[str], type_: type[T]) -> T:
    """Read a TOML file into a struct. Raises ConfigError naming every problem with its path in the file."""
    name = os.path.basename(os.fspath(path))
    try:
        with open(path, "rb") as file:
            raw = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{name}: {error}") from None
    return decode(raw, type_, name)


def decode(raw: Mapping[str, Any], type_: type[T], name: str) -> T:
    """Decode plain data into a struct, strictly. `name` begins each problem's path."""
    try:
        return msgspec.convert(raw, type_)
    except msgspec.ValidationError as first:
        problems = list(_problems(raw, type_, ""))
        # The walk below mirrors msgspec's own rules; what it cannot see is told in msgspec's words.
        raise ConfigError([f"{name}: {p}" for p in problems or [str(first)]]) from None


def _problems(value: Any, type_: Any, path: str) -> list[str]:
    """Every problem msgspec would name one at a time: descends structs, lists and tables, and asks at the leaves."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct) and isinstance(value, dict):
        found = []
        hints = get_type_hints(type_, include_extras=True)
        fields = {f.encode_name: f for f in msgspec.structs.fields(type_)}
        for key in value.keys() - fields.keys():
            expected = ", ".join(sorted(fields))
            found.append(f"{_join(path, key)}: unknown key; expected one of {expected}")
        for key, field in fields.items():
            if key in value:
                found += _problems(value[key], hints[field.name], _join(path, key))
            elif field.required:
                found.append(f"{_join(path, key)}: required, but missing")
        if not found:
            found += _leaf(value, type_, path)
        return sorted(found)
    origin, args = get_origin(type_), get_args(type_)
    if origin in (list, tuple) and isinstance(value, list) and args:
        return [p for i, v in enumerate(value) for p in _problems(v, args[0], f"{path}[{i}]")] or _leaf(
            value, type_, path
        )
    if origin is dict and isinstance(value, dict):
        return [p for k, v in value.items() for p in _problems(v, args[1], _join(path, k))] or _leaf(value, type_, path)
    structs = [a for a in args if isinstance(a, type) and issubclass(a, msgspec.Struct)]
    if len(structs) == 1 and isinstance(value, dict):
        return _problems(value, structs[0], path)
    return _leaf(value, type_, path)


def _leaf(value: Any, type_: Any, path: str) -> list[str]:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        text = str(error).split(" - at `")[0]
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        return [f"{path or '(top)'}: {text[0].lower()}{text[1:]}, got {shown}"]
    return []


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)
