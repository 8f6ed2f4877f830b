"""A server of PostgreSQL for runs on engines."""

from __future__ import annotations

from tests.batch.databases.conftest import server

__all__ = ["server"]
