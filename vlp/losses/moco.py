"""MoCo across two modalities: a pair against earlier ones (WenLan / BriVL: Huo et al., 2103.06561; 1911.05722).

The formula is that of both papers as they are commonly cited, the sum of the two directions halved as everywhere here;
the text of the former was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from vlp.batch import Embeddings
from vlp.config import COMMON
from vlp.errors import UserError
from vlp.losses import Bank, Loss, Softmax
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._engine.tile import Matrix, Side, Term, Tile


@dataclass(frozen=True, kw_only=True)
class MoCo(Softmax):
    """-s_ii' + log(exp(s_ii') + sum_q exp(s_iq)): i' is the pair's own key, q the keys of the last `queue` pairs.

    Pairs of one batch do not meet. Keys have no gradient if they are a teacher's. Label smoothing spreads its share
    over the own key and the queue; negative captions of a picture are in the denominator alone.
    """

    meets_batch: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("bank",)

    queue: Annotated[int, Ge(1), COMMON] = 8192
    """earlier pairs that each pair meets, a multiple of training.batch"""
    keys: Literal["teacher", "own"] = "teacher"
    """whose embeddings are kept: a momentum teacher's, or the model's own (as XBM does, 1912.06798)"""

    @property
    def bank(self) -> Bank:
        """The queue."""
        return Bank(self.queue, keys="guide" if self.keys == "teacher" else "own")

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """One for the images and one for the captions."""
        return (self, self)

    @property
    def powers(self) -> tuple[float, ...]:
        """The log-sum-exps it needs: see Loss."""
        return (1.0,)

    def keyed(self, e: Embeddings) -> tuple[Tensor, Tensor]:
        """[b, D] the keys of the images and of the captions."""
        if self.keys == "own":
            return e.image, e.text
        return teacher_keys(self, e)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        image, text = self.keyed(e)
        images = among.contrast(self, replace(e, text=text, bank_image=None), way="rows").value
        captions = replace(e, image=image, negatives=None, negatives_keep=None, bank_text=None)
        return (images + among.contrast(self, captions, way="columns").value) / 2

    @property
    def term_count(self) -> int:
        """Two for label smoothing."""
        return 2 if self.label_smoothing else 0

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """The sum and the number of the logits that the smoothing share is spread over."""
        if not self.label_smoothing:
            return ()
        there = torch.zeros_like(tile.logits)
        (tile.own(there) if not tile.local else there).fill_(float(tile.bank or not tile.local))
        return (Term(there * tile.logits, there), Term(there, None))

    def denominator(self, tile: Tile) -> Tensor:
        """The logits [r, c], -inf for other pairs of the batch."""
        if not tile.local:
            own = tile.own(tile.logits).clone()
            tile.logits.fill_(-torch.inf)
            tile.own(tile.logits).copy_(own)
        return tile.logits

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        if not self.label_smoothing:
            return side.lse[0] - side.positive
        return side.lse[0] - self.smoothed(side.positive, side.total[0] / side.total[1])

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        positive = matrix.positive()
        mean = torch.cat([positive[:, None], matrix.bank], 1).mean(1)
        return matrix.log_sum_exp(positive[:, None]) - self.smoothed(positive, mean)


def teacher_keys(loss: Loss, e: Embeddings) -> tuple[Tensor, Tensor]:
    """[b, D] what the teacher says of images and captions; UserError without one, or one of another width."""
    called = type(loss).__name__
    if e.guide_image is None or e.guide_text is None:
        raise UserError(f"loss {called} compares pairs with a teacher's keys and has none; name a momentum teacher")
    if e.guide_image.shape[-1] != e.image.shape[-1]:
        raise UserError(
            f"loss {called} compares embeddings of width {e.image.shape[-1]} with keys of a teacher of width "
            f"{e.guide_image.shape[-1]}; expected the same width, which a momentum teacher has"
        )
    return e.guide_image.detach().to(e.image.dtype), e.guide_text.detach().to(e.text.dtype)
