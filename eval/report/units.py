"""Units of metrics: how a value is written for people, and whether it fits on a bar from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """How a number of this unit is shown."""

    precise: Callable[[float], str]
    """in a table of the terminal"""
    plain: Callable[[float], str]
    """on a page"""
    bounded: bool = False
    """whether it lies between 0 and 1"""
    name: str = ""
    """label of a chart's axis"""


UNITS = {
    "share": Unit(lambda v: f"{v:.4f}", lambda v: f"{100 * v:.1f}", bounded=True, name="%"),
    "score": Unit(lambda v: f"{v:.4f}", lambda v: f"{v:.4g}"),
    "count": Unit(lambda v: f"{v:,.1f}", lambda v: f"{v:,.1f}"),
}


def in_a_sentence(value: float, unit: str) -> str:
    """A value as a sentence says it.

    >>> in_a_sentence(0.234, "share"), in_a_sentence(0.034, "share"), in_a_sentence(12.0, "count")
    ('23 %', '3.4 %', '12.0')
    """
    if unit != "share":
        return UNITS[unit].plain(value)
    return f"{100 * value:.0f} %" if value >= 0.095 else f"{100 * value:.1f} %"
