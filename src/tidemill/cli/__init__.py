"""The command line: one file a command, composing everything below; nothing imports it."""

from tidemill.cli.app import main

__all__ = ["main"]
