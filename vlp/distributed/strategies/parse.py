"""The text of `training.negatives`, read into a strategy."""

from __future__ import annotations

import re

from vlp.distributed.plan.cost import automatic
from vlp.distributed.strategies.strategy import Strategy, squarest
from vlp.errors import UserError

FORMS = "auto, grid, grid:RxC, one_sided, ring, grouped:G or grouped:G:SEED"


def read(negatives: str, *, size: int, per_node: int) -> Strategy:
    """The strategy a text names, for `size` ranks, `per_node` of them on a node; UserError for any other text."""
    if negatives == "auto":
        return automatic(size, per_node)
    if negatives == "grid":
        return squarest(size, per_node)
    if negatives == "one_sided":
        return Strategy("grid", rows=size, columns=1)
    if negatives == "ring":
        return Strategy("ring")
    if match := re.fullmatch(r"grid:(\d+)x(\d+)", negatives):
        rows, columns = int(match[1]), int(match[2])
        if rows * columns != size:
            raise UserError(
                f"training.negatives is {negatives!r}, which is for {rows * columns} ranks; this run has {size}"
            )
        return Strategy("grid", rows=rows, columns=columns)
    if match := re.fullmatch(r"grouped:(\d+)(?::(\d+))?", negatives):
        group = int(match[1])
        if group < 1 or size % group:
            raise UserError(
                f"training.negatives is {negatives!r}, but the group's size should divide the {size} ranks of this run"
            )
        return Strategy("grouped", group=group, seed=int(match[2] or 0))
    raise UserError(f"training.negatives is {negatives!r}, but it should be {FORMS}")
