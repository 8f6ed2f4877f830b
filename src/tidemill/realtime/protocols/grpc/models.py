"""Methods that tell of the server and its models, and load and unload them: what REST says, as messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import orjson
from google.protobuf.json_format import ParseDict

from tidemill.errors import InputError, NotFound, TidemillError, Unavailable
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.models.control import Change, Control
from tidemill.realtime.protocols.grpc.calls import Calls, Wishes, parse
from tidemill.realtime.protocols.grpc.decode import parameters_of
from tidemill.realtime.protocols.grpc.encode import FRAME_BYTES, framed
from tidemill.realtime.protocols.grpc.messages import message
from tidemill.realtime.protocols.oip_models import EXTENSIONS, configuration, metadata, statistics
from tidemill.realtime.protocols.oip_repository import load_of, unload_of
from tidemill.realtime.security.scopes import Need
from tidemill.realtime.service import Service, State

__all__ = ["Models"]

log = logging.getLogger(__name__)

Tell = Callable[[Any], dict[str, Any]]
"""From a request message to the fields of its response; may raise a TidemillError."""


class Models:
    """The methods of one message each way, but for ModelInfer."""

    def __init__(self, service: Service, calls: Calls) -> None:
        self._service = service
        self._calls = calls
        self._changes: set[asyncio.Task[None]] = set()
        tells: dict[str, Tell] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": service.ready},
            "ServerMetadata": lambda _: {"name": "tidemill", "version": version("tidemill"), "extensions": EXTENSIONS},
            "ModelReady": self._ready,
            "ModelMetadata": self._metadata,
            "ModelConfig": lambda asked: {"config": configuration(self._find(asked))},
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
        }
        self.methods: dict[str, Callable[[H2Stream], None]] = {
            name: self._telling(name, tell) for name, tell in tells.items()
        }
        self.methods["RepositoryModelLoad"] = self._changing("RepositoryModelLoad", load_of)
        self.methods["RepositoryModelUnload"] = self._changing("RepositoryModelUnload", unload_of)

    def _telling(self, name: str, tell: Tell) -> Callable[[H2Stream], None]:
        answer_type = message(f"inference.{name}Response")

        def take(stream: H2Stream, wishes: Wishes, data: bytes) -> None:
            asked = parse(f"inference.{name}Request", data[FRAME_BYTES:])
            self._calls.enter(stream, _need(name, asked))
            told = ParseDict(tell(asked), answer_type(), ignore_unknown_fields=True)
            self._calls.reply(stream, wishes.answer_coding, framed(told.SerializeToString()))

        return lambda stream: self._calls.unary(stream, take)

    def _find(self, asked: Any) -> Any:
        if self._service.state is State.LOADING:
            raise Unavailable("the models are being loaded", retry_after=1.0)
        return self._service.endpoints.find(asked.name, asked.version or None)

    def _ready(self, asked: Any) -> dict[str, Any]:
        # As Triton does: a model that is not there is not ready, and asking for it is no error.
        try:
            return {"ready": self._service.model_ready(self._find(asked))}
        except (NotFound, Unavailable):
            return {"ready": False}

    def _metadata(self, asked: Any) -> dict[str, Any]:
        found = self._find(asked)
        versions = [one.version for one in self._service.endpoints.versions(found.name)]
        told: dict[str, Any] = orjson.loads(metadata(found.manifest, versions))
        return told

    def _statistics(self, asked: Any) -> dict[str, Any]:
        endpoints = self._service.endpoints
        if not asked.name:
            counted = list(endpoints)
        elif asked.version:
            counted = [self._find(asked)]
        else:
            counted = endpoints.versions(self._find(asked).name)
        return {"model_stats": statistics(counted)}

    def _index(self, asked: Any) -> dict[str, Any]:
        control = self._service.control
        states = [] if control is None else [(s.name, s.version, s.state, s.reason) for s in control.index()]
        fields = ("name", "version", "state", "reason")
        kept = [s for s in states if s[2] == "READY" or not asked.ready]
        return {"models": [dict(zip(fields, state, strict=True)) for state in kept]}

    def _changing(self, name: str, change_of: Callable[[str, dict[str, Any]], Change]) -> Callable[[H2Stream], None]:
        def take(stream: H2Stream, wishes: Wishes, data: bytes) -> None:
            asked = parse(f"inference.{name}Request", data[FRAME_BYTES:])
            self._calls.enter(stream, Need.of("admin", asked.model_name))
            if not asked.model_name:
                raise InputError("model_name is empty", field="model_name")
            change = change_of(asked.model_name, parameters_of(asked.parameters))
            control = self._service.control
            if control is None:
                raise Unavailable("the models are being loaded", retry_after=1.0)
            task = asyncio.get_running_loop().create_task(self._change(control, change, stream, wishes))
            self._changes.add(task)
            task.add_done_callback(self._changes.discard)

        return lambda stream: self._calls.unary(stream, take)

    async def _change(self, control: Control, change: Change, stream: H2Stream, wishes: Wishes) -> None:
        try:
            await control.change(change)
        except TidemillError as error:
            self._calls.fail(stream, error)
        except Exception as error:
            log.exception("a change of the models failed")
            self._calls.fail(stream, TidemillError(f"internal error: {type(error).__name__}"))
        else:
            self._calls.reply(stream, wishes.answer_coding, framed(b""))


def _need(name: str, asked: Any) -> Need:
    """What a method that tells something wants of its caller."""
    if name in ("ServerLive", "ServerReady"):
        return Need("read", open_as="health")
    if name == "ServerMetadata":
        return Need("read", open_as="metadata")
    if name == "RepositoryIndex" or not asked.name:
        return Need.of("read")
    need = Need.of("read", asked.name.partition("@")[0])
    return need._replace(open_as="health") if name == "ModelReady" else need
