"""A bare grpcio asyncio server that gives each message back as it came: `python grpcio_echo.py PORT`."""

import asyncio
import sys

import grpc.aio
import uvloop


async def echo(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """The answer is the question."""
    return message


async def main(port: str) -> None:
    """Serve until told to stop."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    methods = {"ModelInfer": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1])) if sys.argv[2:] == ["uvloop"] else asyncio.run(main(sys.argv[1]))
