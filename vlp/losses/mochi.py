"""MoCHi: mixes of the hardest earlier pairs are negatives too (Kalantidis et al. 2020, 2010.01028, equations 5 and 6).

The paper's method for pictures and their augmentations, here in both directions between pictures and captions. Its
text was not at hand: the numbers of its equations are from memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import normalize

from vlp.batch import Embeddings
from vlp.losses import Bank
from vlp.losses._engine.among import ALONE, Among
from vlp.losses.moco import MoCo

ROWS = 64
"""Pairs whose mixes are made at once: what is in memory beside the mixes themselves"""


@dataclass(frozen=True, kw_only=True)
class MoCHi(MoCo):
    """MoCo with `mixed` negatives a n_j + (1 - a) n_k and `own_mixed` negatives b q + (1 - b) n_j for each query q.

    All are made unit vectors; n are drawn from the `hardest` keys of the queue, a from 0 to 1 and b from 0 to 1/2, by
    seed, step and pair. No gradient flows into a mix. Each mix is D numbers for each pair of a rank, which is what this
    costs: 512 and 256 of them, the numbers of the paper's largest runs, are 1.6 GB for 512 pairs of width 1024.
    """

    meets_captions: ClassVar[bool] = False  # queries stay where they are

    hardest: Annotated[int, Ge(1)] = 1024
    """keys of the queue nearest to a query, from which mixes are drawn"""
    mixed: Annotated[int, Ge(0)] = 64
    """mixes of two of them for each query"""
    own_mixed: Annotated[int, Ge(0)] = 32
    """mixes of one of them with the query itself"""
    seed: Annotated[int, Ge(0)] = 0
    """of the draws"""

    @property
    def bank(self) -> Bank:
        """The whole queue on every rank: a query's hardest keys may be anybody's."""
        return replace(super().bank, whole=True)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        image, text = self.keyed(e)
        images = replace(self.harder(e, e.bank_text, among, 0), text=text, bank_image=None)
        asking = replace(e, image=e.text, bank_text=e.bank_image, negatives=None, negatives_keep=None)
        captions = replace(self.harder(asking, e.bank_image, among, 1), text=image, bank_image=None)
        both = among.contrast(self, images, way="rows"), among.contrast(self, captions, way="rows")
        return (both[0].value + both[1].value) / 2

    def harder(self, e: Embeddings, queue: Tensor | None, among: Among, which: int) -> Embeddings:
        """The embeddings whose images have mixes of the queue [Q, D] among their own negatives."""
        count = self.mixed + self.own_mixed
        if queue is None or not len(queue) or not count:
            return e
        query, b = e.image.detach().to(e.precision), len(e.image)
        first, second, share = (part[among.rank * b :][:b] for part in self.draws(b * among.size, among.step, which))
        mixes = query.new_empty(b, count, query.shape[1])
        for top in range(0, b, ROWS):
            rows = slice(top, top + ROWS)
            drawn = first[rows].to(query.device), second[rows].to(query.device), share[rows].to(query)
            mixes[rows] = self.mixes(query[rows], queue.to(query.dtype), *drawn)
        if e.negatives is None:
            return replace(e, negatives=mixes)
        keep = e.negatives_keep
        if keep is not None:
            keep = torch.cat([keep, keep.new_ones(b, count)], 1)
        return replace(e, negatives=torch.cat([e.negatives, mixes], 1), negatives_keep=keep)

    def draws(self, pairs: int, step: int, which: int) -> tuple[Tensor, Tensor, Tensor]:
        """[pairs, mixes] each: places in 0 to 1 among the hardest keys, twice, and shares of the first in the mix."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + 2 * step + which)
        first, second, share = torch.rand(3, pairs, self.mixed + self.own_mixed, generator=generator)
        share[:, self.mixed :] /= 2
        return first, second, share

    def mixes(self, query: Tensor, queue: Tensor, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        """[n, mixes, D] unit vectors, for queries [n, D]."""
        hardest = (query @ queue.T).topk(min(self.hardest, len(queue)), 1).indices

        def drawn(places: Tensor) -> Tensor:
            return queue[hardest.gather(1, (places * hardest.shape[1]).long())]

        one = torch.cat([drawn(first[:, : self.mixed]), query[:, None].expand(-1, self.own_mixed, -1)], 1)
        return normalize(torch.lerp(drawn(second), one, share[:, :, None]), dim=-1)
