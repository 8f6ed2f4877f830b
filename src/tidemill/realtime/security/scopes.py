"""Scopes: what each route wants, and whether what a caller was granted covers it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["SCOPE", "Need", "covers", "is_scope", "need_of"]

SCOPE = r"^(infer|read|admin)(:([^\s:*]+\*?|\*))?\Z"

# What a scope holds besides itself: who may use a model may read what it takes.
INCLUDED_IN = {"read": ("infer", "admin")}


class Need(NamedTuple):
    """What an endpoint wants of its caller: a scope, of one model or of the server (`model` empty)."""

    scope: str
    """`infer:NAME`, `read`, …"""
    model: str = ""
    open_as: str = ""
    """The name under which it may be open to everybody; empty if it never is."""

    @staticmethod
    def of(action: str, model: str = "") -> Need:
        """`infer`, `read` or `admin` of a model or of the server; of `NAME@ALIAS` as of the model NAME."""
        model = model.partition("@")[0]
        return Need(f"{action}:{model}" if model else action, model)


def is_scope(text: str) -> bool:
    """Whether this is a scope as they are written here."""
    return re.match(SCOPE, text) is not None


def covers(granted: Iterable[str], need: Need) -> bool:
    """Whether any of these scopes, `infer:fraud*` for one, is enough."""
    action = need.scope.partition(":")[0]
    actions = (action, *INCLUDED_IN.get(action, ()))
    return any(_covers(one, actions, need.model) for one in granted)


def _covers(scope: str, actions: tuple[str, ...], model: str) -> bool:
    action, colon, name = scope.partition(":")
    if action not in actions:
        return False
    if not colon:
        return True
    return bool(model) and (model.startswith(name[:-1]) if name.endswith("*") else model == name)


def need_of(method: str, path: str) -> Need:
    """What a route wants, by its method and percent-decoded path. What is not known to be harmless wants `admin`."""
    parts = path.strip("/").split("/")
    reading = method in ("GET", "HEAD")
    if parts[:2] == ["v2", "repository"]:
        if parts[2:3] == ["models"] and len(parts) > 3:
            return Need.of("admin", parts[3])
        return Need.of("read") if parts[2:] == ["index"] else Need.of("admin")
    if parts[1:2] == ["models"] and len(parts) > 2 and parts[0] in ("v1", "v2") and parts[2:] != ["stats"]:
        return _of_model(parts, reading)
    if not reading:
        return Need.of("admin")
    if parts[:2] == ["v2", "health"]:
        return Need("read", open_as="health")
    if parts in ([""], ["v2"]):
        return Need("read", open_as="metadata")
    return Need("read", open_as="metrics" if parts == ["metrics"] else "")


def _of_model(parts: list[str], reading: bool) -> Need:
    """`/v2/models/NAME[/versions/VERSION][/ACTION]`, or TF-Serving's `/v1/models/NAME[/versions/VERSION][:ACTION]`."""
    colon_action = parts[-1].partition(":")[2] if parts[0] == "v1" else ""
    model = parts[2].partition(":")[0] if parts[0] == "v1" else parts[2]
    model = model.partition("@")[0]  # NAME@ALIAS is a version of NAME
    if reading:
        read = Need.of("read", model)
        return read._replace(open_as="health") if parts[-1] == "ready" and len(parts) > 3 else read
    if colon_action or parts[-1] in ("infer", "generate", "generate_stream"):
        return Need.of("infer", model)
    return Need.of("admin", model)
