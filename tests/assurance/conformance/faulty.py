"""A server with one fault: everything goes to a right one, and a question or an answer is spoilt on its way."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc

from tests.realtime.grpc.calls import SERVICE, message

INFER = f"{SERVICE}/ModelInfer"


@dataclass
class Message:
    """A request (method, path) or an answer to it (status too)."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0

    def change(self, edit: Callable[[dict[str, Any]], object]) -> None:
        """Edit the body where it is a JSON object; a tensor's data in bytes stays behind it."""
        size = int(self.headers.get("inference-header-content-length", len(self.body)))
        try:
            doc = json.loads(self.body[:size])
        except ValueError:
            return
        if isinstance(doc, dict):
            edit(doc)
            head = json.dumps(doc).encode()
            if "inference-header-content-length" in self.headers:
                self.headers["inference-header-content-length"] = str(len(head))
            self.body = head + self.body[size:]


Spoil = Callable[[Message], None]


@dataclass
class Fault:
    """`asked` changes requests, `answered` answers; `case` is who must find it. A body with `end` ends the server."""

    name: str
    case: str
    asked: Spoil = field(default=lambda _: None)
    answered: Spoil = field(default=lambda _: None)
    end: bytes = b""


@contextmanager
def faulty(port: int, fault: Fault) -> Iterator[str]:
    """The URL of such a server before the one that listens on `port`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # One segment an answer, sent at once: else each waits for the client's acknowledgement.
        wbufsize = -1
        disable_nagle_algorithm = True

        def forward(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Message(self.command, self.path, headers, self.sent(headers))
            if fault.end and fault.end in asked.body:
                self.close_connection = True
                server.shutdown()
                server.server_close()
                return
            fault.asked(asked)
            headers = {n: v for n, v in headers.items() if n not in ("content-length", "transfer-encoding")}
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request(self.command, asked.path, asked.body or None, headers)
            reply = connection.getresponse()
            told = {n.lower(): v for n, v in reply.getheaders()}
            answer = Message(self.command, self.path, told, reply.read(), reply.status)
            connection.close()
            fault.answered(answer)
            if self.command != "HEAD":
                told["content-length"] = str(len(answer.body))
            self.send_response_only(answer.status)
            for name, value in told.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_HEAD = do_OPTIONS = forward

        def sent(self, headers: dict[str, str]) -> bytes:
            if headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


Change = Callable[[Any], None]


@contextmanager
def faulty_grpc(port: int, asked: Change | None = None, answered: Change | None = None) -> Iterator[str]:
    """HOST:PORT of a server that spoils ModelInfer requests or responses on their way to the one on `port`."""
    from concurrent.futures import ThreadPoolExecutor

    channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    class Forward(grpc.GenericRpcHandler):
        def service(self, call: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda data, context: self.forward(call.method, data, context))

        def forward(self, method: str, data: bytes, context: Any) -> bytes:
            if asked is not None and method == INFER:
                data = edited("inference.ModelInferRequest", data, asked)
            try:
                answer = channel.unary_unary(method)(data, timeout=30)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            return edited("inference.ModelInferResponse", answer, answered) if answered and method == INFER else answer

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Forward()])
    bound = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        server.stop(None).wait()
        channel.close()


def edited(type_: str, data: bytes, change: Change) -> bytes:
    try:
        made = message(type_).FromString(data)
    except ValueError:
        return data
    change(made)
    return bytes(made.SerializeToString())
