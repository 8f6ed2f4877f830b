"""The ceiling: the least HTTP/1.1 echo that is still honest on uvloop and httptools.

It parses every request, keeps connections alive, reads the body and answers it with its length; it has no limits,
no timers, no routes and no errors. `python benchmarks/raw_echo.py [PORT]`, then for example
`wrk -t1 -c64 -d5s -s post.lua http://127.0.0.1:PORT/`.
"""

import asyncio
import sys
from typing import cast

import httptools
import uvloop


class RawEcho(asyncio.Protocol):
    """Parse, keep the body, write it back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body = self.body
        self.body = b""
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        if not self.parser.should_keep_alive():
            self.transport.close()


async def main(port: int) -> None:
    """Serve until killed; the port is printed once it listens."""
    server = await asyncio.get_running_loop().create_server(RawEcho, "127.0.0.1", port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
