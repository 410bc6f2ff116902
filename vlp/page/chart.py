"""Charts as inline SVG: nothing to fetch, colours from the page that holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    """Round numbers that cover low..high in about so many steps, at least two of them.

    >>> ticks(0.3, 6.1), len(ticks(0, 0))
    ([0.0, 2.0, 4.0, 6.0, 8.0], 2)
    """
    rough = (high - low or max(abs(high), 1)) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
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


def _frame(y_ticks: Sequence[float], y_at: Callable[[float], float], *, x_label: str, y_label: str) -> list[str]:
    """The beginning of a chart: its head, a grid line for each of `y_ticks`, the name of the lower axis."""
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(y):.1f}" y2="{y_at(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y_at(y) + 4:.1f}" text-anchor="end">{short(y)}</text>')
    place = f'x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end"'
    return [*parts, f'<text class="axis" {place}>{escape(x_label)}</text>']


def _tick(place: float, label: str) -> str:
    """A number below the lower axis."""
    return f'<text class="tick" x="{place:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{label}</text>'


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

    parts = _frame(y_ticks, y_at, x_label=x_label, y_label=y_label)
    for x in x_ticks:
        if x <= x_high:
            parts.append(_tick(x_at(x), short(x)))
    for number, one in enumerate(lines):
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in one.points)
        parts.append(f'<polyline class="line line{number}" points="{path}"/>')
    legend = "".join(f'<span class="key key{i}">{escape(one.name)}</span>' for i, one in enumerate(lines))
    return "".join(parts) + "</svg>" + (f'<p class="legend">{legend}</p>' if len(lines) > 1 else "")


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: how many values lie from `low` to `high`."""

    low: float
    high: float
    count: int
    label: str = ""  # what the bar is called when it is pointed at; empty: its range


def bar_chart(bars: Sequence[Bar], *, x_label: str, y_label: str, logarithmic: bool = False) -> str:
    """The SVG of a histogram over one axis, counts upwards; "" if there is no bar.

    A logarithmic axis wants bars above zero. The whole range and count of a bar are shown when it is pointed at.
    """
    if not bars:
        return ""
    place: Callable[[float], float] = math.log10 if logarithmic else float
    first, last = place(bars[0].low), place(bars[-1].high)
    most = max(bar.count for bar in bars)
    y_ticks = ticks(0, most, about=min(4, max(1, most)))

    def x_at(x: float) -> float:
        return LEFT + (place(x) - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - y / y_ticks[-1] * (HEIGHT - TOP - BOTTOM)

    parts = _frame(y_ticks, y_at, x_label=x_label, y_label=y_label)
    for bar in (bar for bar in bars if bar.count):
        left, right, top = x_at(bar.low), x_at(bar.high), y_at(bar.count)
        width, height = max(1.0, right - left - 1), max(1.0, HEIGHT - BOTTOM - top)
        span = escape(bar.label) or f"{short(bar.low)} to {short(bar.high)}"
        parts.append(
            f'<rect class="bars" x="{left:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"><title>{span}: {bar.count:,}</title></rect>'
        )
    for x in powers(bars[0].low, bars[-1].high) if logarithmic else ticks(bars[0].low, bars[-1].high):
        if bars[0].low <= x <= bars[-1].high:
            parts.append(_tick(x_at(x), short(x)))
    return "".join(parts) + "</svg>"


def powers(low: float, high: float) -> list[float]:
    """Round numbers from low to high for a logarithmic axis: 1, 2, 5, 10, ..., or powers of ten on a long one.

    >>> powers(30, 600)
    [50, 100, 200, 500]
    """
    steps = (1, 2, 5) if high < 1e4 * low else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # Divided where the power is negative, so that 0.2 stays 0.2.
    numbers = [step * 10**power if power >= 0 else step / 10**-power for power in decades for step in steps]
    return [number for number in numbers if low <= number <= high]
