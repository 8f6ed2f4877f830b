"""What a serving process did and is apart from its models: connections, HTTP errors, bytes, memory."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from importlib.metadata import version

from tidemill.observability import families
from tidemill.observability.recorder import Recorder

__all__ = ["ProcessCounters"]

PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessCounters:
    """Counts of one process, written by its event loop's thread. Its attributes are the numbers of single series."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        """Without a recorder the numbers are kept in private memory."""
        self.recorder = recorder = recorder or Recorder()
        values = recorder.values
        self.accepted = {tls: values(families.ACCEPTED, tls=str(tls).lower()) for tls in (False, True)}
        self.refused = values(families.TURNED_AWAY)
        self.http2 = values(families.HTTP2)
        self._errors: dict[int, memoryview[float]] = {}
        self.connections = values(families.CONNECTIONS)
        self.in_flight = values(families.IN_FLIGHT)
        self.received_bytes = values(families.RECEIVED_BYTES)
        self.sent_bytes = values(families.SENT_BYTES)
        self.ready = values(families.READY)
        self._cpu = values(families.CPU_SECONDS)
        self._resident = values(families.RESIDENT)
        values(families.STARTED)[0] = time.time()
        values(families.BUILD, version=version("tidemill"), python=platform.python_version())[0] = 1

    def error(self, status: int) -> None:
        """A request that reached no model was answered with an error."""
        place = self._errors.get(status)
        if place is None:
            place = self._errors[status] = self.recorder.values(families.HTTP_ERRORS, status=str(status))
        place[0] += 1

    def sample(self) -> None:
        """Take what the operating system says of this process now."""
        spent = os.times()
        self._cpu[0] = spent.user + spent.system
        # With no more files to be opened, what was seen last stands, and the process goes on counting.
        with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as file:
            self._resident[0] = int(file.read().split()[1]) * PAGE
