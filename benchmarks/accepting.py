"""How evenly processes of one listening socket share its connections: `python -m benchmarks.accepting`.

Compares the event loop's own accepting, which takes all that waits, with `tidemill.realtime.accepting`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import time

import uvloop

from tidemill.realtime.accepting import Seats
from tidemill.realtime.http import HttpServer, create_listener
from tidemill.realtime.request import Request

PROCESSES = 2
CONNECTIONS = 16
TRIALS = 40
SECONDS = 2.0


def serve(listener: socket.socket, seats: int, place: int, own: bool) -> None:
    """One process: answers its place, until it is killed."""

    def answer(request: Request) -> None:
        request.reply(200, b"%d" % place)

    async def run() -> None:
        server = HttpServer(answer)
        if own:
            await server.start(sock=listener, seats=Seats(seats, place))
        else:
            copy = listener.dup()
            copy.setblocking(False)
            await asyncio.get_running_loop().create_server(server._connection, sock=copy)
        await asyncio.Event().wait()

    uvloop.run(run())


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Who answers on this connection."""
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))


async def largest_share(port: int, gap: float) -> int:
    """Connections of the process that has most, opened `gap` seconds apart."""
    opened = []
    for _ in range(CONNECTIONS):
        opened.append(asyncio.create_task(asyncio.open_connection("127.0.0.1", port)))
        if gap:
            await asyncio.sleep(gap)
    connections = await asyncio.gather(*opened)
    answers = await asyncio.gather(*(ask(*one) for one in connections))
    for _, writer in connections:
        writer.close()
    await asyncio.sleep(0.05)
    return max(answers.count(who) for who in set(answers))


async def new_connections(port: int) -> float:
    """Connections a second that are opened, asked once and closed, by 16 clients."""
    until = time.monotonic() + SECONDS
    count = 0

    async def client() -> None:
        nonlocal count
        while time.monotonic() < until:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await ask(reader, writer)
            writer.close()
            count += 1

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return count / SECONDS


async def measure(port: int, name: str) -> None:
    """Print the shares, and the rate of new connections."""
    for gap in (0.0, 0.002):
        shares = [await largest_share(port, gap) for _ in range(TRIALS)]
        worst = statistics.quantiles(shares, n=10)[-1]
        print(f"{name}, {CONNECTIONS} connections {gap * 1e3:g} ms apart: the larger share is "
              f"{statistics.median(shares):g} (median), {worst:g} (9 of 10 trials)")  # fmt: skip
    print(f"{name}: {await new_connections(port):,.0f} new connections/s")


def main() -> None:
    """Measure both, one after the other."""
    for name, own in (("event loop", False), ("by turns", True)):
        seats = Seats.create(PROCESSES)
        with create_listener("127.0.0.1", 0) as listener:
            children = []
            for place in range(PROCESSES):
                child = os.fork()
                if child == 0:
                    serve(listener, seats, place, own)
                children.append(child)
            time.sleep(1.0)
            try:
                uvloop.run(measure(listener.getsockname()[1], name))
            finally:
                for child in children:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
        os.close(seats)


if __name__ == "__main__":
    main()
