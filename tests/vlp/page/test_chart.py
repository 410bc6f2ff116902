"""Charts: every value is drawn where it lies, and nothing is drawn of nothing."""

from __future__ import annotations

import doctest
from xml.etree import ElementTree

import pytest

from vlp.page import chart
from vlp.page.chart import Bar, Series, bar_chart, line_chart, powers


def test_the_examples_are_true() -> None:
    assert doctest.testmod(chart).failed == 0


@pytest.mark.parametrize("logarithmic", [False, True])
def test_bars_are_as_high_as_their_counts(logarithmic: bool) -> None:
    bars = [Bar(1, 10, 40), Bar(10, 100, 0), Bar(100, 1000, 20)]
    svg = bar_chart(bars, x_label="pixels <of a side>", y_label="pictures", logarithmic=logarithmic)
    drawn = [e for e in ElementTree.fromstring(svg).iter() if e.tag == "rect"]
    heights = [float(e.attrib["height"]) for e in drawn]
    assert len(heights) == 2, "an empty bar is drawn"
    assert heights[0] == pytest.approx(2 * heights[1], rel=1e-2)
    assert [e[0].text for e in drawn] == ["1 to 10: 40", "100 to 1k: 20"]
    lefts = [float(e.attrib["x"]) for e in drawn]
    assert lefts[1] - lefts[0] == pytest.approx(
        (chart.WIDTH - chart.LEFT - chart.RIGHT) * (2 / 3 if logarithmic else 99 / 999), abs=0.2
    )


def test_nothing_is_drawn_of_nothing() -> None:
    assert bar_chart([], x_label="x", y_label="y") == ""
    assert line_chart([Series("loss", [(0, 1)])], x_label="x", y_label="y") == ""


def test_lines_are_whole_svgs() -> None:
    svg = line_chart([Series("loss", [(0, 3.0), (10, 1.0)])], x_label="pairs", y_label="loss")
    assert ElementTree.fromstring(svg).attrib["aria-label"] == "loss"


def test_small_numbers_of_a_logarithmic_axis_are_round() -> None:
    assert powers(0.3, 4) == [0.5, 1, 2]
    assert powers(1, 1e5) == [1, 10, 100, 1000, 10000, 100000]
