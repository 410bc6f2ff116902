"""The ring: captions travel from rank to rank, and no rank ever has all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.distributed.collectives import send_around
from vlp.distributed.process_groups import GroupPeers
from vlp.losses._engine.banked import Banks
from vlp.losses._engine.peers import ALONE, Pending
from vlp.losses._engine.tile import TileForm, Way
from vlp.losses._engine.tile_engine import Block, Pull, Sums, differentiate, observe
from vlp.losses._engine.view import LossResult, View, Wanted, itself


@dataclass(frozen=True)
class Ring:
    """All ranks in a circle, each with its own images; `3 (N - 1) b D` elements received, `4 b D` in memory."""

    everyone: GroupPeers

    def evaluate(self, loss: TileForm, e: Embeddings, wanted: Wanted, *, way: Way | None = None) -> LossResult:
        """The loss over all pairs of all ranks (all ranks take part).

        Every rank has all earlier captions, which its images meet, and its own part of the earlier images.
        """
        view = View.of(loss, e, rows=ALONE, columns=self.everyone, everyone=self.everyone, way=way)
        b = len(e.text)
        if loss.linear and wanted.any:
            row_pull, column_pull, seen = *view.linear_pulls(), None
        else:
            rows, columns = view.empty(b), view.empty(b * self.everyone.size)
            for block, where in self.blocks(view):
                observe(loss, block, rows, columns.cut(where))
                Banks.of(e, block, again=block.diagonal is None).observe(loss, rows, columns.cut(where))
            row_pull, column_pull, seen = view.settle(rows, columns)
        if not wanted.any:
            assert seen is not None
            return replace(seen, value=self.everyone.sum(seen.value))
        sums = self.differentiate(view, wanted, row_pull, column_pull)
        return view.finish(sums, row_pull, wanted, seen)

    def blocks(self, view: View) -> Iterator[tuple[Block, slice]]:
        """My images against each rank's captions, my own first; the next captions travel while a block is computed.

        What a teacher says of captions travels with them.
        """
        peers, b = self.everyone, len(view.e.text)
        image_guide, text_guide = view.own_guides()
        text, guide = view.e.text.detach().contiguous(), text_guide
        known = itself(text_guide, view.e.text)
        for step in range(peers.size):
            last = step + 1 == peers.size
            coming = None if last else self.passed_on(text, tag=0)
            guide_coming = None if last or guide is None or known else self.passed_on(guide, tag=2)
            source = (peers.rank - step) % peers.size
            where = slice(source * b, (source + 1) * b)
            guides = None if image_guide is None or guide is None else (image_guide, guide)
            block = view.block(view.e.image.detach(), text, guides)
            yield block.of_others(where, own=step == 0), where
            text = text if coming is None else coming()
            guide = text if known else guide if guide_coming is None else guide_coming()

    def passed_on(self, rows: Tensor, *, tag: int) -> Pending:
        """The rows of my left neighbour, while my right neighbour gets `rows` (all ranks take part)."""
        peers = self.everyone
        return send_around(rows, to=(peers.rank + 1) % peers.size, source=(peers.rank - 1) % peers.size, tag=tag)

    def differentiate(self, view: View, wanted: Wanted, row_pull: Pull, column_pull: Pull) -> Sums:
        """The second pass. A gradient of captions follows them, one step later, and ends at their own rank."""
        own: Tensor | None = None
        arriving: Pending | None = None
        sums = None
        for block, where in self.blocks(view):
            sums = view.empty_sums(block, wanted) if sums is None else sums
            if wanted.text:
                sums.text = torch.zeros_like(block.text, dtype=block.precision)
            differentiate(view.loss, block, row_pull, column_pull.cut(where), sums)
            banks = Banks.of(view.e, block, again=block.diagonal is None)
            banks.differentiate(view.loss, row_pull, column_pull.cut(where), sums)
            if own is None:
                own = sums.text
            elif sums.text is not None:
                arriving = self.passed_on(sums.text if arriving is None else sums.text.add_(arriving()), tag=1)
        assert sums is not None
        if own is not None and arriving is not None:
            own += arriving()
        return replace(sums, text=own)
