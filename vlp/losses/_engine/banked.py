"""Earlier pairs as further columns: negatives of rows (and of columns) that are there already, so that none travels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses._engine.statistics import Running
from vlp.losses._engine.tile import Tile, TileForm, Way
from vlp.losses._engine.tile_engine import Block, Pull, Sums, local_slope, observe_local, product

T = TypeVar("T")


def cosines(block: Block, tile: Tile, rows: slice, columns: slice) -> Tensor:
    """[r, c] the cosines of a tile's logits; a bias hides those of a scale near zero, which are multiplied again."""
    if block.bias is None:
        return tile.logits / block.scale
    found = torch.empty_like(tile.logits)
    product(block.image[rows], block.text[columns].T, out=found)
    return found


@dataclass(frozen=True)
class Banks:
    """What one process computes of the bank: its images against its part of the captions, and the other way round."""

    rows: Block | None  # image [n, D], text [q, D]: its own share of the earlier captions
    columns: Block | None  # image: captions [m, D]; text: its own share of the earlier images

    @staticmethod
    def of(e: Embeddings, block: Block, *, again: bool = False) -> Banks:
        """Those of a block of the matrix; `again`: its images have met the bank before."""

        def against(keys: Tensor | None, queries: Tensor, guide: Tensor | None, taught: Tensor | None) -> Block | None:
            if keys is None or not len(keys):
                return None
            guides = (None, None) if guide is None or taught is None else (guide, taught)
            beside = {"row_guide": guides[0], "column_guide": guides[1]}
            return Block(queries, keys.detach().to(queries.dtype), block.scale, block.bias, None, **beside)

        rows = None if again else against(e.bank_text, block.image, block.row_guide, e.bank_guide_text)
        return Banks(rows, against(e.bank_image, block.text, block.column_guide, e.bank_guide_image))

    def observe(self, loss: TileForm, rows: Running, columns: Running) -> None:
        """Adds the logits of earlier pairs to the statistics of rows and columns (one matmul each)."""
        for block, stats, way in self.each(rows, columns):
            for r, _, tile in block.tiles():
                observe_local(loss, replace(tile, local=True, bank=True), None, stats.cut(r), way=way)

    def differentiate(self, loss: TileForm, rows: Pull, columns: Pull, sums: Sums) -> None:
        """Adds their part of the gradient (two matmuls each)."""
        for block, pull, way in self.each(rows, columns):
            into = sums.image if way == "rows" else sums.text
            counted = (sums.image is not None) == (way == "columns")  # the others reach the scale through their sum
            for r, c, tile in block.tiles():
                slope = local_slope(loss, replace(tile, local=True, bank=True), None, pull.cut(r), sums, way=way)
                if into is not None:
                    product(slope, block.text[c], out=into[r], add=True)
                if counted:
                    sums.scale += torch.linalg.vecdot(slope, cosines(block, tile, r, c)).double().sum()
                if block.bias is not None:
                    sums.bias += slope.sum(1).double().sum()

    def each(self, rows: T, columns: T) -> list[tuple[Block, T, Way]]:
        """The blocks that there are, each with what belongs to it."""
        both: tuple[tuple[Block | None, T, Way], ...] = ((self.rows, rows, "rows"), (self.columns, columns, "columns"))
        return [(block, one, way) for block, one, way in both if block is not None]
