"""What `training.negatives` may say, read into a strategy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vlp.errors import UserError

FORMS = "auto, grid, grid:RxC, one_sided, ring, grouped:G or grouped:G:SEED"


@dataclass(frozen=True)
class Strategy:
    """Where the negatives of a pair come from, and along which wires."""

    kind: Literal["grid", "ring", "grouped"]
    rows: int = 1  # R of the grid
    columns: int = 1  # C of the grid
    group: int = 1  # G of grouped
    seed: int = 0  # draws the groups of grouped

    @property
    def exact(self) -> bool:
        """Whether each pair meets the negatives of all ranks."""
        return self.kind != "grouped"

    def __str__(self) -> str:
        if self.kind == "grid":
            return f"grid:{self.rows}x{self.columns}"
        return "ring" if self.kind == "ring" else f"grouped:{self.group}:{self.seed}"


def read(negatives: str, *, size: int, per_node: int) -> Strategy:
    """The strategy a text names, for `size` ranks, `per_node` of them on a node; UserError for any other text."""
    if negatives == "auto":
        from vlp.distributed.cost import automatic  # the cost model speaks of strategies itself

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
            raise UserError(f"negatives is {negatives!r}, which is for {rows * columns} ranks; this run has {size}")
        return Strategy("grid", rows=rows, columns=columns)
    if match := re.fullmatch(r"grouped:(\d+)(?::(\d+))?", negatives):
        group = int(match[1])
        if group < 1 or size % group:
            raise UserError(
                f"negatives is {negatives!r}; expected the group's size to divide the {size} ranks of this run"
            )
        return Strategy("grouped", group=group, seed=int(match[2] or 0))
    raise UserError(f"negatives is {negatives!r}; expected {FORMS}")


def grids(size: int) -> list[tuple[int, int]]:
    """Every (R, C) with R x C = size."""
    return [(rows, size // rows) for rows in range(1, size + 1) if size % rows == 0]


def squarest(size: int, per_node: int) -> Strategy:
    """The grid that moves the fewest bytes, R + C least; of two alike the one whose rows lie inside nodes."""
    rows, columns = min(grids(size), key=lambda grid: (sum(grid), per_node % grid[1] != 0, grid[0]))
    return Strategy("grid", rows=rows, columns=columns)
