"""Bars and lines as SVG, written by hand: it needs no library and is read by every browser and forge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 80, 16, 64, 52
COLOURS = ("#9aa5b1", "#e0a458", "#1f6f8b", "#7b9e6b")
STYLE = "font-family:system-ui,sans-serif;font-size:13px"


@dataclass(frozen=True)
class Series:
    """One colour of bars: its median, lowest and highest value at each group."""

    label: str
    values: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Line:
    """One colour of a line chart: its points, x ascending."""

    label: str
    points: Sequence[tuple[float, float]]


def bars(title: str, groups: Sequence[str], axis: str, series: Sequence[Series]) -> str:
    """The chart; a thin line on each bar spans its lowest and highest value."""
    step, top = _scale(max(high for one in series for _, _, high in one.values))
    plot_height = HEIGHT - TOP - BOTTOM
    slot = (WIDTH - LEFT - RIGHT) / len(groups)
    bar = slot * 0.8 / len(series)

    def y(value: float) -> float:
        return TOP + plot_height * (1 - value / top)

    parts = _frame(title, [one.label for one in series], step, top)
    for g, group in enumerate(groups):
        start = LEFT + g * slot + slot * 0.1
        for i, one in enumerate(series):
            middle, low, high = one.values[g]
            x = start + i * bar
            line = x + bar / 2
            parts.append(
                f'<rect x="{x:.1f}" y="{y(middle):.1f}" width="{bar * 0.92:.1f}" '
                f'height="{plot_height * middle / top:.1f}" fill="{COLOURS[i]}">'
                f"<title>{escape(one.label)}, {escape(group)}: {middle:,.0f}</title></rect>"
                f'<line x1="{line:.1f}" x2="{line:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" stroke="#222"/>'
            )
        centre = LEFT + (g + 0.5) * slot
        parts.append(
            f'<text x="{centre:.1f}" y="{HEIGHT - 30}" text-anchor="middle" fill="#222">{escape(group)}</text>'
        )
    return _closed(parts, axis)


def lines(title: str, axis: str, series: Sequence[Line]) -> str:
    """The chart of some lines, from zero on, x along `axis`."""
    step, top = _scale(max(y for one in series for _, y in one.points))
    stride, end = _scale(max(x for one in series for x, _ in one.points))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = _frame(title, [one.label for one in series], step, top)
    for tick in range(round(end / stride) + 1):
        at = LEFT + wide * tick * stride / end
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 30}" text-anchor="middle" fill="#222">{tick * stride:g}</text>')
    for one, colour in zip(series, COLOURS, strict=False):
        points = " ".join(f"{LEFT + wide * x / end:.1f},{TOP + high * (1 - y / top):.1f}" for x, y in one.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return _closed(parts, axis)


def _frame(title: str, labels: Sequence[str], step: float, top: float) -> list[str]:
    """The beginning of a chart: title, legend, and a horizontal line each step."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" style="{STYLE}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-weight="600" font-size="15" fill="#222">{escape(title)}</text>',
    ]
    for i, label in enumerate(labels):
        x = LEFT + i * 170
        parts.append(f'<rect x="{x}" y="36" width="12" height="12" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="{x + 18}" y="47" fill="#222">{escape(label)}</text>')
    for tick in range(round(top / step) + 1):
        at = TOP + (HEIGHT - TOP - BOTTOM) * (1 - tick * step / top)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e3e6ea"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#555">{tick * step:,.0f}</text>')
    return parts


def _closed(parts: list[str], axis: str) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle" fill="#555">{escape(axis)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _scale(highest: float) -> tuple[float, float]:
    """A round step, and the multiple of it that holds `highest`, four to eight steps up."""
    power = 10 ** math.floor(math.log10(highest / 4))
    step = next(power * m for m in (1, 2, 5, 10) if highest / (power * m) <= 8)
    return step, step * math.ceil(highest / step)
