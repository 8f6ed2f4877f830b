"""When an unanswered request is sent again: only if it was surely not computed, or may be computed twice."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tidemill.client.steps import Lost, Reply

__all__ = ["pause_before", "retry_after"]

# Seconds that the first pause has at most; each further one at most twice as many as the one before, up to the most.
FIRST = 0.1
MOST = 5.0


def pause_before(attempt: int, failed: Reply | Lost, repeatable: bool) -> float | None:
    """Seconds to wait before attempt number `attempt` (the first repetition is 1); None: it must not be sent again.

    Refusals (429, and 503 that says when to come back) computed nothing, nor did a request that never left. A lost
    connection, and a 503 of somebody in between, say nothing, and need `repeatable`. Any other error is an answer.
    The pause is drawn from 0 to its bound (full jitter), so that many clients do not come back together, and is added
    to what the server asked for.
    """
    asked = 0.0
    if isinstance(failed, Lost):
        if failed.late or (failed.sent and not repeatable):
            return None
    elif failed.status in (429, 503):
        told = retry_after(failed.headers)
        if told is None and failed.status == 503 and not repeatable:
            return None
        asked = told or 0.0
    else:
        return None
    return asked + random.uniform(0, min(MOST, FIRST * 2 ** (attempt - 1)))  # noqa: S311 - to spread, not to hide


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `retry-after-ms` or `Retry-After` names; None where neither is a number (a date is not read)."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if value.isascii() and value.isdigit():
            return int(value[:9]) * unit
    return None
