"""Distillation of what a teacher says of the whole batch, harder pairs first (DCD: Rao et al., 2207.01426).

The divergence from the teacher's softmax over the batch in both directions, beside InfoNCE. The paper's text was not at
hand: how it weights pairs by difficulty is here (1 - P_ii) ^ difficulty, P_ii the student's probability of the right
answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from vlp.config.bounds import AtLeastZero
from vlp.losses import Softmax
from vlp.losses._engine.tile import Exponent, Matrix, Side, Tile


@dataclass(frozen=True, kw_only=True)
class Distill(Softmax):
    """(1 - share) InfoNCE + share d_i KL(softmax(t g_i.h) || softmax(s_i)), g and h a teacher's unit vectors.

    d_i = (1 - P_ii) ^ difficulty, a number: no gradient goes through it. A teacher says nothing of negative captions
    that belong to one picture: they are in the student's softmax alone.
    """

    uses_guide: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("guide",)

    share: Annotated[float, Ge(0), Le(1)] = 0.5
    """of the divergence from the teacher; the rest is InfoNCE"""
    teacher_scale: Annotated[float, Gt(0)] = 100.0
    """t, the logit scale of the teacher"""
    difficulty: AtLeastZero = 0.0
    """how much more hard pairs learn from the teacher; 0: all alike"""

    @property
    def exponent_count(self) -> int:
        """The teacher's softmax and the student's."""
        return 2

    @property
    def mean_count(self) -> int:
        """What is averaged by the teacher's."""
        return 1

    def exponents(self, tile: Tile) -> tuple[Exponent, ...]:
        """The teacher's, under which its logits less the student's are averaged, and the student's."""
        if tile.local:
            nowhere = torch.full_like(tile.logits, -torch.inf)
            return Exponent(nowhere, 0.0, torch.zeros_like(tile.logits)), Exponent(tile.logits)
        assert tile.guide is not None
        teacher = tile.guide.mul_(self.teacher_scale)
        return Exponent(teacher, 0.0, teacher - tile.logits, -1.0), Exponent(tile.logits)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        teacher, student = side.lse
        return self.joined(student, self.target(side), side.mean[0] + student - teacher, side.positive)

    def joined(self, student: Tensor, target: Tensor, apart: Tensor, positive: Tensor) -> Tensor:
        """[n] both parts: the student's log-sum-exp less its target, and its divergence from the teacher."""
        if self.difficulty:
            apart = apart * (-torch.expm1((positive - student).detach().clamp_max(0))) ** self.difficulty
        return (1 - self.share) * (student - target) + self.share * apart

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        assert matrix.guide is not None
        student = matrix.log_sum_exp(matrix.logits)
        teacher = (self.teacher_scale * matrix.guide).log_softmax(1)
        apart = (teacher.exp() * (teacher - (matrix.logits - student[:, None]))).sum(1)
        target = self.smoothed(matrix.positive(), matrix.logits.mean(1))
        return self.joined(student, target, apart, matrix.positive())
