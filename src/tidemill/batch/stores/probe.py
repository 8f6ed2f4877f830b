"""Whether a store keeps to conditions, found out before a run relies on them."""

from __future__ import annotations

import secrets
from contextlib import suppress

from tidemill.batch.stores.names import PROBE
from tidemill.batch.stores.objects import Objects
from tidemill.errors import RunError, SinkError

__all__ = ["check_conditions"]


def check_conditions(objects: Objects, *, replacing: bool) -> None:
    """Create a small object twice and, for a run that is to replace one, replace it under an etag that it no longer
    has: both must be refused.

    Raises SinkError for a store that ignores conditions, refuses to know them, or cannot be written at all.
    """
    name = f"{PROBE}{secrets.token_hex(8)}"
    first, second, third = (secrets.token_bytes(16) for _ in range(3))
    try:
        if objects.create(name, first) != first:
            raise SinkError(f"{objects.uri}: answers what was never written; conditional writes do not work here")
        was = objects.head(name)
        if was is None:
            raise SinkError(f"{objects.uri}: does not show what was just written; runs cannot be committed here")
        kept = objects.create(name, second) == first
        if kept and replacing:
            kept = objects.replace(was, second) == second and objects.replace(was, third) == second
        if not kept:
            raise SinkError(
                f"{objects.uri}: this store ignores conditions (If-None-Match, If-Match), so that two runs could "
                "both believe to have written the output; write to a path or a database, or to a store that keeps "
                "to them"
            )
    finally:
        with suppress(RunError):
            objects.delete([name])
