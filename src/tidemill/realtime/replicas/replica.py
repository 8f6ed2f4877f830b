"""The program of one replica: the ordinary server, on sockets that its supervisor opened, told by it what to do.

It ends in order when it is told to, on SIGTERM, and when the supervisor is gone, however that ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import time

import msgspec
import uvloop

from tidemill.errors import TidemillError
from tidemill.observability.logs import log_to_stderr
from tidemill.realtime.accepting import Seats
from tidemill.realtime.endpoint import Endpoint
from tidemill.realtime.http import HttpServer
from tidemill.realtime.models.model import Failures
from tidemill.realtime.process import SWITCH
from tidemill.realtime.replicas.choice import concurrency_within
from tidemill.realtime.replicas.messages import (
    Answer,
    Any,
    Applied,
    Apply,
    Channel,
    Drain,
    Known,
    Peers,
    Ready,
    Report,
    Start,
    Stopped,
    Unready,
    failed,
    not_served,
)
from tidemill.realtime.replicas.remote import RemoteControl
from tidemill.realtime.server import Server
from tidemill.realtime.service import State

__all__ = ["main"]

log = logging.getLogger(__name__)

# Seconds between reports.
TICK = 0.25
# A replica whose loop stands still for so many seconds beyond what it may take to end is killed by the kernel: its
# supervisor would have done so long before, if there were one. While it loads it may stand still for longer.
ABANDONED = 120
LOADING = 3600


class Replica:
    """One serving process of several."""

    def __init__(self, number: int, public: socket.socket | None, private: socket.socket, seats: Seats | None) -> None:
        """`private` is asked for signs of life, and by a balancer; `public` is shared with other replicas."""
        self._number = number
        self._public = public
        self._private = private
        self._seats = seats
        self._started: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self._drain: asyncio.Future[Drain] = asyncio.get_running_loop().create_future()
        self._channel: Channel | None = None
        self._alone = False
        self._supervisor = os.getppid()
        self._lame_duck = 0.0
        self._server: Server | None = None
        self._control: RemoteControl | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, control: socket.socket) -> int:
        """Serve until told to end. Returns the exit code."""
        loop = asyncio.get_running_loop()
        self._channel = await Channel.open(control, self._told, self._orphaned)
        # Ctrl-C in a terminal reaches every process of it; what becomes of it is the supervisor's to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_signal_handler(signal.SIGTERM, self._end_alone, False)
        await asyncio.wait((self._started, self._drain), return_when=asyncio.FIRST_COMPLETED)
        if not self._started.done():
            return 1 if self._alone else 0
        start = self._started.result()
        try:
            code = await self._serve(Server(start.options), start)
        except (TidemillError, OSError) as error:
            self._channel.send(failed(error))
            code = getattr(error, "exit_code", 1)
        # What ends the channel now is not the end of the supervisor.
        self._drain.cancel()
        self._channel.close()
        return int(code)

    async def _serve(self, server: Server, start: Start) -> int:
        control = RemoteControl(server.models, self._tell)
        server.service.control = self._control = control
        server.http.on_stopped = lambda: self._tell(Stopped())
        watched = HttpServer(server.handle)
        if self._public is None:
            await server.listen(self._private)
        else:
            await watched.start(sock=self._private)
            await server.listen(self._public, self._seats)
            self._give_way(server)
        tick = asyncio.create_task(self._tick(server, start.options.lame_duck + start.options.grace))
        loading = asyncio.create_task(server.apply(start.desired))
        await asyncio.wait((loading, self._drain), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            failures = loading.result()
            self._give_way(server)
            self._server = server
            self._tell(_ready(list(server.service.endpoints), failures))
            await self._drain
        loading.cancel()
        tick.cancel()
        control.alone()
        drain = self._drain.result()
        server.options = msgspec.structs.replace(server.options, lame_duck=drain.lame_duck)
        # One that has nothing to serve yet leaves what waits to those that do.
        others = self._seats is not None and self._seats.others and self._server is None
        server.http.leaves_queue = self._public is not None and (not drain.last or others)
        await server.drain()
        await watched.drain(0.0, 0.0)
        if os.getppid() != self._supervisor:
            # The private directory is the supervisor's to remove, which is not there to do it.
            shutil.rmtree(os.path.dirname(self._private.getsockname()), ignore_errors=True)
        return 0

    async def _apply(self, server: Server, apply: Apply) -> None:
        failures = await server.apply(apply.desired)
        self._tell(Applied(turn=apply.turn, not_served=not_served(failures)))

    async def _tick(self, server: Server, patience: float) -> None:
        """Report, and keep the kernel from ending this process: it does so if this is not reached for long."""
        while True:
            signal.alarm(LOADING if self._server is None else int(ABANDONED + patience))
            endpoints = list(server.service.endpoints)
            stuck = next((one.name for one in endpoints if one.batched.stuck_since is not None), "")
            self._tell(
                Report(
                    in_flight=server.http.in_flight,
                    connections=server.http.connections,
                    cpu_seconds=time.process_time(),
                    stuck=stuck and f"a call of model {stuck} does not return",
                    failing=_failing(endpoints),
                )
            )
            self._give_way(server)
            await asyncio.sleep(TICK)

    def _give_way(self, server: Server) -> None:
        """Take no new connections while no answer can be given, as long as others do; hand on what is too many.

        Clients keep their connections: without this a replica that is started under load would get none of it.
        """
        acceptor = server.http.acceptor
        if acceptor is not None and self._seats is not None:
            if server.service.ready or not self._seats.others:
                acceptor.resume()
                acceptor.tell()
                server.http.shed(self._seats.surplus)
            else:
                acceptor.pause()

    def _tell(self, message: Any) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _told(self, message: Any) -> None:
        if isinstance(message, Start):
            self._lame_duck = message.options.lame_duck
            self._started.set_result(message)
        elif isinstance(message, Apply) and self._server is not None:
            task = asyncio.create_task(self._apply(self._server, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(message, Unready) and self._server is not None:
            self._server.service.state = State.DRAINING
        elif isinstance(message, Peers) and self._server is not None:
            self._server.security.share(message.ready)
        elif isinstance(message, Drain):
            self._end(message)
        elif isinstance(message, Answer) and self._control is not None:
            self._control.answered(message)
        elif isinstance(message, Known) and self._control is not None:
            self._control.know(message.states)

    def _orphaned(self) -> None:
        if not self._drain.done():
            log.error("the supervisor is gone: ending")
            self._alone = True
            self._end_alone(True)

    def _end_alone(self, last: bool) -> None:
        self._end(Drain(last=last, lame_duck=self._lame_duck))

    def _end(self, how: Drain) -> None:
        if not self._drain.done():
            self._drain.set_result(how)


def _ready(endpoints: list[Endpoint], failures: Failures) -> Ready:
    return Ready(
        not_served=not_served(failures),
        call_seconds=max([one.batched.profile.cost(1) for one in endpoints], default=0.0),
        slo_seconds=min([one.slo for one in endpoints], default=0.0),
        concurrency=min([_concurrency(one) for one in endpoints], default=1.0),
        failing=_failing(endpoints),
    )


def _failing(endpoints: list[Endpoint]) -> str:
    return next((one.name for one in endpoints if one.failing), "")


def _concurrency(endpoint: Endpoint) -> float:
    batched = endpoint.batched
    most = batched.limits.max_rows if endpoint.live.divisible else 1
    slo = endpoint.slo
    return concurrency_within(batched.profile, slo, workers=batched.workers, most_rows=most)


def main() -> None:
    """NUMBER PUBLIC PRIVATE CONTROL SEATS PLACE: inherited file descriptors (-1 for none), and its place in `seats`."""
    number, public, private, control, seats, place = map(int, sys.argv[1:])
    sys.setswitchinterval(SWITCH)
    log_to_stderr()
    _name_records(number)
    shared = Seats(seats, place) if seats >= 0 else None

    async def life() -> int:
        replica = Replica(
            number,
            socket.socket(fileno=public) if public >= 0 else None,
            socket.socket(fileno=private),
            shared,
        )
        return await replica.run(socket.socket(fileno=control))

    code = uvloop.run(life())
    # Threads that are still in a model call are left behind.
    sys.stderr.flush()
    os._exit(code)


def _name_records(number: int) -> None:
    """Every line of the log tells whose it is."""
    make = logging.getLogRecordFactory()

    def named(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.replica = number
        return record

    logging.setLogRecordFactory(named)


if __name__ == "__main__":
    main()
