"""The page of `vlp shards stats`: one file, no network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.commands.counting import Counted
from data_pipelines.commands.tallies import Histogram
from vlp.page import render
from vlp.page.chart import Bar, bar_chart

TEMPLATE = Path(__file__).parent / "stats_page.html"
BARS = 40
COLUMNS = {"least": "least", "p5": "5 %", "p50": "median", "mean": "mean", "p95": "95 %", "greatest": "greatest"}


def page(numbers: Mapping[str, Any], counted: Counted, *, lost: Mapping[str, int]) -> str:
    """The HTML of what was counted; `numbers` is its tree, `lost` what is not delivered, by reason."""
    pictures, captions = numbers["pictures"], numbers["captions"]
    measures = {
        "width, pixels": pictures["width_pixels"],
        "height, pixels": pictures["height_pixels"],
        "width / height": pictures["aspect_width_over_height"],
        "bytes": pictures["bytes"],
        "samples per shard": numbers["samples_per_shard"],
    }
    for code, language in captions["languages"].items():
        measures[f"words, {code}"] = language["words"]
        measures[f"characters, {code}"] = language["characters"]
    return render(
        TEMPLATE,
        title=numbers["shards_of"],
        numbers=numbers,
        tiles=_tiles(numbers),
        columns=list(COLUMNS.values()),
        measures={name: [_short(row[key]) for key in COLUMNS] for name, row in measures.items() if row["count"]},
        charts=_charts(counted),
        formats=_shares(pictures["formats"]),
        sizes=_shares(pictures["sizes"]["most_frequent"], of=sum(pictures["formats"].values())),
        lost=lost,
    )


def bars(histogram: Histogram, *, logarithmic: bool) -> list[Bar]:
    """At most about BARS bars over the middle 99 % and the bins next to it; whole numbers are never cut apart."""
    low, high = histogram.quantile(0.005), histogram.quantile(0.995)
    values = {value: n for value, n in histogram.bins.items() if low <= value <= high}
    if not values or low == high:
        return []
    if logarithmic:
        step = math.log10(high / low) / BARS
        places = Counter[int]()
        for value, n in values.items():
            places[min(BARS - 1, int(math.log10(value / low) / step))] += n
        return [Bar(low * 10 ** (step * i), low * 10 ** (step * (i + 1)), places[i]) for i in range(BARS)]
    wide = max(1, math.ceil((high - low + 1) / BARS))
    places = Counter[int]()
    for value, n in values.items():
        places[int((value - low) // wide)] += n
    starts = [low + wide * i for i in range(max(places) + 1)]
    names = [f"{start:,.0f}" + (f" to {start + wide - 1:,.0f}" if wide > 1 else "") for start in starts]
    return [
        Bar(start - 0.5, start + wide - 0.5, places[i], name)
        for i, (start, name) in enumerate(zip(starts, names, strict=True))
    ]


def _charts(counted: Counted) -> list[tuple[str, str]]:
    """(heading, SVG) of every histogram that has more than one value."""
    drawn = [
        ("Width of the pictures", counted.width, "pixels", "pictures", True),
        ("Height of the pictures", counted.height, "pixels", "pictures", True),
        ("Shape of the pictures", counted.aspect, "width / height", "pictures", True),
        ("Size of the picture files", counted.picture_bytes, "bytes", "pictures", True),
        ("Samples in a shard", counted.shard_samples, "samples", "shards", False),
        *(
            (f"Length of captions, {code}", one.words, "words", "captions", False)
            for code, one in counted.languages.items()
        ),
    ]
    charts = []
    for heading, histogram, unit, what, logarithmic in drawn:
        logarithmic = logarithmic and histogram.least > 0
        svg = bar_chart(bars(histogram, logarithmic=logarithmic), x_label=unit, y_label=what, logarithmic=logarithmic)
        if svg:
            charts.append((heading, svg))
    return charts


def _tiles(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(value, what it is) of the few numbers that come first."""
    captions = numbers["captions"]
    about = "" if captions["exact"] else "≈ "
    size = numbers["tar_bytes"]
    return [
        (f"{numbers['samples']:,}", "samples"),
        (f"{numbers['shards']:,}", "shards"),
        (f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB", "in tars"),
        (f"{captions['captions']:,}", "captions"),
        (about + f"{100 * captions['repeated'] / max(1, captions['captions']):.1f} %", "of them said before"),
        (", ".join(list(captions["languages"])[:6]) or "none", "languages"),
    ]


def _shares(counts: Mapping[str, int], of: int | None = None) -> list[tuple[str, str, float]]:
    total = of or sum(counts.values()) or 1
    return [(name, f"{n:,}", 100 * n / total) for name, n in counts.items()]


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"
