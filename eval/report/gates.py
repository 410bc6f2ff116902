"""Bounds that metrics of a report have to keep: what decides over the exit status of `vlp eval`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vlp.config import did_you_mean
from vlp.errors import UserError

Tree = dict[str, Any]


def unmet(tree: Tree, at_least: Sequence[str], at_most: Sequence[str] = ()) -> list[str]:
    """One sentence for each `metric=value` that the report does not keep; what is no number keeps no bound.

    `at_least` is meant from a metric's better side: of one that is better when it is lower, it is a bound from above.
    Raises UserError for a metric that was not measured, and for what is no metric=value.
    """
    sentences = []
    for wants, below in ((at_least, False), (at_most, True)):
        for want in wants:
            name, text, bound = _bound(want)
            if name not in tree["metrics"]:
                raise UserError(f'no metric is called "{name}"{did_you_mean(name, list(tree["metrics"]))}')
            value, most = tree["metrics"][name], below or tree["better"][name] == "lower"
            if not (value <= bound if most else value >= bound):
                sentences.append(f"{name} is {value:.4f}, but at {'most' if most else 'least'} {text} was asked for")
    return sentences


def _bound(want: str) -> tuple[str, str, float]:
    """(name, value as it was typed, value) of `metric=value`. Raises UserError if it is none."""
    name, sign, text = want.rpartition("=")
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if not sign or math.isnan(bound):
        raise UserError(f'"{want}" should be metric=value, such as test/en/image_to_text/recall@1=0.2')
    return name, text, bound
