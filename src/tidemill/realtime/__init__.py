"""Answers requests as they arrive, each inside its deadline."""

from tidemill.realtime.options import RequestLimits, ServeOptions
from tidemill.realtime.process import serve
from tidemill.realtime.server import Server

__all__ = ["RequestLimits", "ServeOptions", "Server", "serve"]
