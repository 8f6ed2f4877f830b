"""The model repository over REST: Triton's index, load and unload; beside them aliases and traffic.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import orjson

from tidemill.config import decode
from tidemill.errors import ConfigError, InputError, NotFound, TidemillError, Unavailable
from tidemill.realtime.answers import reply_error
from tidemill.realtime.models.control import Aliases, Change, Load, Traffic, Unload
from tidemill.realtime.models.options import NAME, Versions
from tidemill.realtime.protocols.oip_request import kind, load_json, parameters_of
from tidemill.realtime.request import Request
from tidemill.realtime.routes import Router, not_allowed
from tidemill.realtime.service import Service

__all__ = ["Repository", "load_of", "unload_of"]

log = logging.getLogger(__name__)

PREFIX = "/v2/repository/models/"


class Repository:
    """The routes under /v2/repository. What changes models is answered once it is done."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._changes: set[asyncio.Task[None]] = set()
        self._actions: dict[str, Callable[[str, dict[str, Any]], Change]] = {
            "load": lambda name, doc: load_of(name, parameters_of(doc, "the request")),
            "unload": lambda name, doc: unload_of(name, parameters_of(doc, "the request")),
            "aliases": lambda name, doc: _decoded(Aliases, name, doc),
            "traffic": lambda name, doc: _decoded(Traffic, name, doc),
        }

    def add(self, router: Router) -> None:
        """Answer the index at its path; `take` is for what the router does not know."""
        router.add("POST", "/v2/repository/index", self._index)

    def take(self, request: Request) -> bool:
        """Answer a request to change a model, and say whether it was one. Raises InputError, NotFound, Unavailable."""
        if not request.path.startswith(PREFIX):
            return False
        name, _, action = request.path.removeprefix(PREFIX).rpartition("/")
        make = self._actions.get(action)
        if make is None:
            raise NotFound(f"no such path: {request.path:.200}; expected {PREFIX}NAME/{'|'.join(self._actions)}")
        if request.method != "POST":
            not_allowed(request, ("POST",))
            return True
        if not re.match(NAME, name):
            raise NotFound(f"{name!r:.200} is no name of a model")
        control = self._service.control
        if control is None:
            raise Unavailable("the models are being loaded", retry_after=1.0)
        change = make(name, _document(request.body))
        task = asyncio.get_running_loop().create_task(self._change(request, control.change(change)))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return True

    async def _change(self, request: Request, changing: Any) -> None:
        try:
            await changing
        except TidemillError as error:
            reply_error(request, error)
        except Exception as error:
            log.exception("a change of the models failed")
            reply_error(request, TidemillError(f"internal error: {type(error).__name__}"))
        else:
            request.reply(200, b"{}")

    def _index(self, request: Request) -> None:
        control = self._service.control
        try:
            only_ready = _document(request.body).get("ready", False)
            if not isinstance(only_ready, bool):
                raise InputError(f"ready is a JSON {kind(only_ready)}, expected true or false", field="ready")
            if control is None:
                raise Unavailable("the models are being loaded", retry_after=1.0)
        except TidemillError as error:
            reply_error(request, error)
            return
        found = [
            {"name": one.name, "version": one.version, "state": one.state, "reason": one.reason}
            for one in control.index()
            if one.state == "READY" or not only_ready
        ]
        request.reply(200, orjson.dumps(found))


def load_of(name: str, parameters: dict[str, Any]) -> Load:
    """The change that Triton's load parameters ask for: `config`, a JSON text with a version policy, is understood.

    Raises InputError for anything else: a package's configuration and files are its own, and verified.
    """
    for key in parameters:
        if key != "config":
            raise InputError(
                f"parameter {key!r:.80}: not taken here, as models are what their packages say; expected config, "
                "with a version_policy",
                field=key[:80],
            )
    if "config" not in parameters:
        return Load(name=name)
    config = load_json(parameters["config"].encode()) if isinstance(parameters["config"], str) else parameters["config"]
    if not isinstance(config, dict) or config.keys() - {"name", "version_policy"}:
        raise InputError("parameter config: expected an object with a version_policy and nothing else", field="config")
    return Load(name=name, versions=_policy(config.get("version_policy", {"latest": {}})))


def _policy(policy: Any) -> Versions:
    """Triton's version policy in ours."""
    match policy:
        case {"all": dict()} if len(policy) == 1:
            return "all"
        case {"latest": dict(latest)} if len(policy) == 1:
            most = latest.get("num_versions", 1)
            if isinstance(most, int) and 1 <= most <= 9999:
                return f"latest:{most}"
        case {"specific": {"versions": [*versions]}} if len(policy) == 1:
            if versions and all(re.match(NAME, str(one)) for one in versions):
                return tuple(map(str, versions))
    raise InputError(
        'version_policy: expected {"latest": {"num_versions": N}}, {"all": {}} or {"specific": {"versions": […]}}',
        field="version_policy",
    )


def unload_of(name: str, parameters: dict[str, Any]) -> Unload:
    """The change that Triton's unload parameters ask for. Raises InputError for one that is not known."""
    for key in parameters:
        if key != "unload_dependents":  # nothing depends on another model here
            raise InputError(f"parameter {key!r:.80}: an unload takes unload_dependents only", field=key[:80])
    return Unload(name=name)


def _decoded(type_: type[Change], name: str, doc: dict[str, Any]) -> Change:
    if "name" in doc:
        raise InputError("name: stands in the path already", field="name")
    tag = type_.__struct_config__.tag
    try:
        return decode({**doc, "name": name, "change": tag}, type_, "the request")
    except ConfigError as error:
        raise InputError(str(error)) from None


def _document(body: bytes) -> dict[str, Any]:
    doc = load_json(body) if body.strip() else {}
    if not isinstance(doc, dict):
        raise InputError(f"the request is a JSON {kind(doc)}, expected an object")
    return doc
