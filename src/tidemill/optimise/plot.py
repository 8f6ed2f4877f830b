"""The candidates as a picture: how quick against how good, written as SVG by hand, which every browser reads."""

from __future__ import annotations

import math
from html import escape

from tidemill.optimise.metrics import HIGHER
from tidemill.optimise.options import Candidate, Report

__all__ = ["svg"]

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 64, 56
STYLE = "font-family:system-ui,sans-serif;font-size:13px"
COLOURS = {"offered": "#1f6f8b", "no gain": "#9aa5b1", "metric": "#c0392b"}
SAID = {"offered": "offered", "no gain": "neither quicker nor smaller", "metric": "loses too much"}


def svg(report: Report) -> str:
    """One circle a candidate, its area its size beside the parent's; a line through it spans half of the rounds. A
    dashed line is where the metric becomes too bad.
    """
    shown = [c for c in report.candidates if math.isfinite(c.figures.metric)]
    before = report.parent.metric
    worst = before - report.max_drop if HIGHER[report.metric] else before + report.max_drop
    speeds = _axis(0.0, max([1.0, *(c.batch.high for c in shown)]) * 1.15)
    values = [before, worst, *(c.figures.metric for c in shown)]
    room = (max(values) - min(values)) * 0.15 or abs(before) * 0.01 or 0.01
    metrics = _axis(min(values) - room, max(values) + room)

    def x(speed: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (speed - speeds[0]) / (speeds[-1] - speeds[0])

    def y(metric: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (metrics[-1] - metric) / (metrics[-1] - metrics[0])

    title = f"{report.package} {report.version} on {report.rows:,} rows of {report.data}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" style="{STYLE}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-weight="600" font-size="15" fill="#222">{escape(title)}</text>',
    ]
    for i, (verdict, colour) in enumerate(COLOURS.items()):
        at = LEFT + i * 200
        parts.append(f'<circle cx="{at + 6}" cy="42" r="6" fill="{colour}"/>')
        parts.append(f'<text x="{at + 18}" y="47" fill="#222">{SAID[verdict]}</text>')
    for tick in speeds:
        parts.append(_line(x(tick), x(tick), TOP, HEIGHT - BOTTOM))
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", "middle", "#555"))
    for tick in metrics:
        parts.append(_line(LEFT, WIDTH - RIGHT, y(tick), y(tick)))
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:.6g}", "end", "#555"))
    dashed = f'stroke="{COLOURS["metric"]}" stroke-dasharray="6 4"'
    parts.append(_line(LEFT, WIDTH - RIGHT, y(worst), y(worst), dashed))
    for i, one in enumerate(sorted(shown, key=lambda c: c.batch.middle)):
        across = x(one.batch.low), x(one.batch.middle), x(one.batch.high)
        parts += _circle(one, across, y(one.figures.metric), above=i % 2 == 1)
    parts.append(f'<path d="M{x(1):.1f} {y(before) - 7:.1f}l7 7l-7 7l-7 -7z" fill="#222"/>')
    parts.append(_text(x(1), y(before) - 12, "as it is", "middle", "#222"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 12, "rows/s, as a multiple of the package's", "middle", "#555"))
    parts.append(_text(8, TOP - 8, report.metric, "start", "#555"))
    return "\n".join([*parts, "</svg>", ""])


def _circle(one: Candidate, across: tuple[float, float, float], y: float, *, above: bool) -> list[str]:
    """Names stand above and below by turns, as neighbours are often close."""
    low, middle, high = across
    colour = COLOURS[one.verdict]
    radius = 9 * math.sqrt(min(max(one.size, 0.1), 4.0))
    told = f"{one.name}: {one.batch.middle:.2f}x rows/s, {one.size:.2f}x size, metric {one.figures.metric:.6g}"
    fill = f'fill="{colour}" fill-opacity="0.55"'
    return [
        _line(low, high, y, y, f'stroke="{colour}" stroke-width="2"'),
        f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="{radius:.1f}" {fill}><title>{escape(told)}</title></circle>',
        _text(middle, y - radius - 6 if above else y + radius + 14, one.name, "middle", colour),
    ]


def _line(x1: float, x2: float, y1: float, y2: float, stroke: str = 'stroke="#e3e6ea"') -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" {stroke}/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _axis(low: float, high: float) -> list[float]:
    """Round numbers, four to ten steps, that hold both ends."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * m for m in (1, 2, 5, 10) if (high - low) / (power * m) <= 8)
    first = math.floor(low / step)
    return [i * step for i in range(first, math.ceil(high / step) + 1)]
