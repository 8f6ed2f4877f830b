"""What a serving process counts, and the numbers that are looked at a few times a second rather than counted."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tidemill.observability.counters import Counters
from tidemill.observability.process import ProcessCounters
from tidemill.observability.reading import retire
from tidemill.observability.recorder import Recorder
from tidemill.realtime.http import HttpServer
from tidemill.realtime.service import Service

__all__ = ["Monitor", "models_of"]

# Seconds between looks.
TICK = 0.25


class Monitor:
    """The counters of one process. All of it belongs to the event loop's thread."""

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        """They lie in a file of `directory`, for others to read, or in private memory. Raises OSError."""
        if directory is not None:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            retire(directory)
        self.recorder = Recorder(directory)
        self.counts = ProcessCounters(self.recorder)
        self._known: set[Counters] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, service: Service, http: HttpServer) -> None:
        """Look now and from now on."""
        self._look(service, http)
        self._timer = asyncio.get_running_loop().call_later(TICK, self.start, service, http)

    def close(self) -> None:
        """Look no more. What was counted stays."""
        for counters in self._known:
            counters.fold()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, service: Service, http: HttpServer) -> None:
        counts = self.counts
        counts.sample()
        counts.connections[0] = http.connections
        counts.in_flight[0] = http.in_flight
        counts.ready[0] = service.ready
        known = {}
        for one in service.endpoints:
            one.counters.fold()
            one.counters.waits(one.batched.queued_rows, one.batched.busy)
            known[one.counters] = one
        if known.keys() != self._known:
            for gone in self._known - known.keys():
                gone.withdrawn()
            for counters, one in known.items():
                counters.served(one.manifest.runtime.name, one.live.fingerprint)
            self._known = set(known)


def models_of(service: Service) -> list[dict[str, Any]]:
    """What a server tells its operators of its models. May be called from any thread."""
    endpoints = service.endpoints
    aliases: dict[int, list[str]] = {}
    for name in endpoints.names:
        for alias, one in endpoints.aliases(name).items():
            aliases.setdefault(id(one), []).append(alias)
    return [
        {
            "name": one.name,
            "version": one.version,
            "aliases": aliases.get(id(one), []),
            "ready": service.model_ready(one),
            "runtime": one.manifest.runtime.name,
            "fingerprint": one.live.fingerprint,
            "queued_rows": one.batched.queued_rows,
            "busy_threads": one.batched.busy,
        }
        for one in endpoints
    ]
