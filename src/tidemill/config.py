"""TOML files decoded into frozen msgspec structs: unknown keys refused, all errors at once, each with its path."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from tidemill.errors import ConfigError

__all__ = ["Config", "decode", "load_toml"]

T = TypeVar("T")

# What msgspec appends of the value's type and path; the path and the value itself are told here.
_SAID = re.compile(r"(, got `[^`]*`)?( - at `.*`)?$")
# Fields that may hold a secret, by their path, and the password in a URI of any other.
_SECRET = re.compile(r"pass|pwd|secret|token\b|credential|webhook|pushgateway|headers|\benv\b|\bconf\b", re.IGNORECASE)
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^\s]*@")


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
    except (OSError, ValueError, RecursionError) as error:  # also numbers of too many digits, nesting without end
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
    inner = _inner(value, type_)
    origin, args = get_origin(inner), get_args(inner)
    found: list[str] = []
    if isinstance(value, dict) and _is_struct(inner):
        hints = get_type_hints(inner, include_extras=True)
        fields = {f.encode_name: f for f in msgspec.structs.fields(inner)}
        for key in value.keys() - fields.keys():
            expected = ", ".join(sorted(fields))
            found.append(f"{_join(path, key)}: unknown key; expected one of {expected}")
        for key, field in fields.items():
            if key in value:
                found += _problems(value[key], hints[field.name], _join(path, key))
            elif field.required:
                found.append(f"{_join(path, key)}: required, but missing")
        found.sort()
    elif isinstance(value, dict) and origin is dict:
        for key, one in value.items():
            found += _leaf(key, args[0], path, named=True) + _problems(one, args[1], _join(path, key))
    elif isinstance(value, list | tuple) and (origin is list or (origin is tuple and args[1:] == (...,))):
        for i, one in enumerate(value):
            found += _problems(one, args[0], f"{path}[{i}]")
    return found or _leaf(value, type_, path)


def _inner(value: Any, type_: Any) -> Any:
    """The type without its constraints; of a union, the only member that a table or a list could be."""
    origin = get_origin(type_)
    if origin is Annotated:
        return _inner(value, get_args(type_)[0])
    if origin is Union or origin is UnionType:
        members = [_inner(value, a) for a in get_args(type_)]
        if isinstance(value, dict):
            members = [m for m in members if _is_struct(m) or get_origin(m) is dict]
        elif isinstance(value, list | tuple):
            members = [m for m in members if get_origin(m) in (list, tuple)]
        else:
            members = [m for m in members if m is not NoneType]
        return members[0] if len(members) == 1 else type_
    return type_


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _leaf(value: Any, type_: Any, path: str, *, named: bool = False) -> list[str]:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        inner = _inner(value, type_)
        if get_origin(inner) is Literal:
            text = f"expected one of {', '.join(map(repr, get_args(inner)))}"
        else:
            text = _SAID.sub("", str(error)).replace("object`", "table`").replace(" | null`", "`")
        shown = _PASSWORD.sub(r"\1:…@", repr(value))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        got = "" if _SECRET.search(path) and not named else f", got {shown}"
        return [f"{path or '(top)'}: {text[0].lower()}{text[1:]}{got}"]
    return []


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else str(key)
