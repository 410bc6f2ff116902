"""Where the negatives of a pair come from: a grid of ranks, a ring, or groups that are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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


def grids(size: int) -> list[tuple[int, int]]:
    """Every (R, C) with R x C = size."""
    return [(rows, size // rows) for rows in range(1, size + 1) if size % rows == 0]


def squarest(size: int, per_node: int) -> Strategy:
    """The grid that moves the fewest bytes, R + C least; of two alike the one whose rows lie inside nodes."""
    rows, columns = min(grids(size), key=lambda grid: (sum(grid), per_node % grid[1] != 0, grid[0]))
    return Strategy("grid", rows=rows, columns=columns)
