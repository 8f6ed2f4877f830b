"""Which versions of a model a policy picks, and their order."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tidemill.realtime.models.options import Versions

__all__ = ["chosen", "natural"]


def chosen(versions: Iterable[str], policy: Versions) -> list[str]:
    """The versions that a policy picks of those there are, lowest first: all, latest, latest:N, A..B, or a list."""
    known = sorted(versions, key=natural)
    if not isinstance(policy, str):
        return [one for one in known if one in policy]
    if policy == "all":
        return known
    if ".." in policy:
        low, _, high = policy.partition("..")
        return [
            one
            for one in known
            if (not low or natural(low) <= natural(one)) and (not high or natural(one) <= natural(high))
        ]
    most = int(policy.partition(":")[2] or 1)
    return known[-most:]


def natural(version: str) -> list[tuple[int, str]]:
    """Order of versions in which 10 follows 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[^\d]+", version)]
