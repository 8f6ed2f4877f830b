"""Tables and figures of a report, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

__all__ = ["met", "spread", "table", "three"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median (lowest to highest)."""
    middle, low, high = three(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def three(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest, highest."""
    return statistics.median(values), min(values), max(values)


def met(reached: bool) -> str:
    """Whether a goal was reached."""
    return "met" if reached else "**not met**"
