"""Line charts as inline SVG: nothing to fetch, colours from the page that holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34


@dataclass(frozen=True)
class Series:
    """One line: its name and its points."""

    name: str
    points: Sequence[tuple[float, float]]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover low..high in about so many steps.

    >>> ticks(0.3, 6.1)
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    rough = max(high - low, 1e-9) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def thinned(points: Sequence[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    """At most about `most` points: the means of neighbours."""
    size = max(1, math.ceil(len(points) / most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def short(number: float) -> str:
    """A number for an axis.

    >>> short(250000), short(0.25), short(0)
    ('250k', '0.25', '0')
    """
    if abs(number) >= 1e6:
        return f"{number / 1e6:g}M"
    return f"{number / 1e3:g}k" if abs(number) >= 1e3 else f"{number:g}"


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """The SVG of some lines over one pair of axes; "" if no line has two points."""
    lines = [Series(s.name, thinned([p for p in s.points if math.isfinite(p[1])])) for s in series]
    lines = [s for s in lines if len(s.points) > 1]
    if not lines:
        return ""
    xs, ys = zip(*(p for s in lines for p in s.points), strict=True)
    x_ticks, y_ticks = ticks(min(0, *xs), max(xs)), ticks(min(ys), max(ys))
    x_high: float = max(xs)

    def x_at(x: float) -> float:
        return LEFT + (x - x_ticks[0]) / (x_high - x_ticks[0]) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(y):.1f}" y2="{y_at(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y_at(y) + 4:.1f}" text-anchor="end">{short(y)}</text>')
    for x in x_ticks:
        if x <= x_high:
            parts.append(f'<text x="{x_at(x):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{short(x)}</text>')
    for number, one in enumerate(lines):
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in one.points)
        parts.append(f'<polyline class="line line{number}" points="{path}"/>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x_label)}</text></svg>')
    legend = "".join(f'<span class="key key{i}">{escape(one.name)}</span>' for i, one in enumerate(lines))
    return "".join(parts) + (f'<p class="legend">{legend}</p>' if len(lines) > 1 else "")
