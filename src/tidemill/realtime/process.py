"""The life of a serving process: its signals, its log, and the order in which it starts and ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import uvloop

from tidemill.observability.logs import log_to_stderr
from tidemill.realtime.notify import notify
from tidemill.realtime.options import ServeOptions
from tidemill.realtime.server import Server

__all__ = ["live", "serve"]

log = logging.getLogger(__name__)

SWITCH = 0.0005  # seconds; 0.005 is the default of Python

PathLike = str | os.PathLike[str]


def serve(
    packages: Sequence[PathLike],
    options: ServeOptions | None = None,
    reread: Callable[[], ServeOptions] | None = None,
) -> None:
    """Serve packages until SIGTERM or SIGINT has been handled in order; a second signal ends it at once.

    With `options.replicas` other processes serve, and this one keeps them; on SIGHUP they are replaced one by one, and
    serve as `reread` says then. Blocks; belongs on the main thread. Raises PackageError or ConfigError for a package or
    option that is not right, OSError for an address that cannot be had.
    """
    if options is not None and options.replicas is not None:
        from tidemill.realtime.replicas.supervisor import supervise

        supervise([os.fspath(package) for package in packages], options, reread)
        return
    # A model that holds the interpreter's lock gives it up so much sooner that refusals and probes do not wait for it.
    sys.setswitchinterval(SWITCH)
    log_to_stderr()
    server_options = options or ServeOptions()

    async def life() -> None:
        server = Server(server_options)
        await live(server, partial(server.load, packages))

    uvloop.run(life())


async def live(
    server: Server, load: Callable[[], Coroutine[Any, Any, None]], sock: socket.socket | None = None
) -> None:
    """A server's whole life: listen (on a socket that others share, if one is given), `load`, serve, and drain on
    SIGTERM or SIGINT; a second signal ends it at once. SIGHUP has certificates and keys read again.

    Raises what `load` raises, and OSError.
    """
    loop = asyncio.get_running_loop()
    stop, force = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (force if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, server.security.reload)
    await server.listen(sock)
    loading = asyncio.create_task(load())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and loading.exception() is not None:
        # A listener that is left open keeps the loop from closing.
        stopping.cancel()
        await server.close_ports()
        loading.result()
    if loading.done():
        notify("READY=1")
    await stopping
    notify("STOPPING=1")
    loading.cancel()
    draining = asyncio.create_task(server.drain())
    forced = asyncio.create_task(force.wait())
    await asyncio.wait((draining, forced), return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        log.warning("a second signal: ending at once", extra={"in_flight": server.in_flight})
        draining.cancel()
        server.close()
    forced.cancel()
