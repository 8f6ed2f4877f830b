"""The message classes of the gRPC services, in a descriptor pool of their own.

Generated `_pb2` modules register in protobuf's default pool, where the same files of another package (tritonclient,
kserve) collide with them. `make protos` compiles protos/ into the descriptors that are read here instead.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

__all__ = ["DecodeError", "message", "pool"]


@cache
def pool() -> Any:
    """The descriptor pool of every vendored file and what it imports."""
    compiled = (files(__package__) / "protos/descriptors.binpb").read_bytes()
    found = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        found.AddSerializedFile(file.SerializeToString())
    return found


@cache
def message(name: str) -> Any:
    """The class of a message by its full name, as `inference.ModelInferRequest`. Raises KeyError."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))
