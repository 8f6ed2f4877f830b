"""The servers that hurt ground stands on."""

from __future__ import annotations

from tests.moto_server import aws

__all__ = ["aws"]
