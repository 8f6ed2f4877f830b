"""The servers that sources and sinks stand on."""

from __future__ import annotations

from tests.batch.databases.conftest import server
from tests.moto_server import aws

__all__ = ["aws", "server"]
