"""Answers requests as they arrive, each inside its deadline."""

from tidemill.realtime.options import RequestLimits, ServeOptions
from tidemill.realtime.server import Server, serve

__all__ = ["RequestLimits", "ServeOptions", "Server", "serve"]
