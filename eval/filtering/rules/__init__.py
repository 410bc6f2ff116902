"""What makes a sample stay, one rule a file: its fields are its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from eval.filtering.kept import Kept
from eval.filtering.pool import Flags, Pool

Border = Literal["lowest", "highest", "any"]
STAYS = 0
NOBODY = -1


@dataclass(frozen=True)
class Verdict:
    """What a rule says of N samples; of those that were out before it says nothing."""

    reasons: tuple[str, ...]  # why samples are left out, in words
    reason: NDArray[np.uint8]  # [N] STAYS, or 1 + the place of why in `reasons`
    score: NDArray[np.float32]  # [N] what was compared with a bound; NaN where nothing was
    like: NDArray[np.int64]  # [N] number of the sample (or test picture) that it is most like, or NOBODY
    about: Mapping[str, Any] = field(default_factory=dict)  # what a manifest says, such as the bound that came out

    @property
    def out(self) -> Flags:
        """[N] which samples are left out."""
        return np.asarray(self.reason != STAYS)


@dataclass(frozen=True)
class Rule:
    """Base of all rules."""

    component_package: ClassVar[str] = "eval.filtering.rules"
    needs_texts: ClassVar[bool] = False
    """whether vectors of captions are compared"""
    scored: ClassVar[str] = "score"
    """what the score is, in words"""
    just_stays: ClassVar[Border] = "any"
    """which scores are those of samples that only just stay"""

    def refuse(self, pool: Pool) -> None:
        """Raise UserError if the settings do not fit each other, or these embeddings: before anything is computed."""

    def inputs(self) -> Mapping[str, Any]:
        """What is read besides the shards and their embeddings, so that other inputs are noticed: name -> digest."""
        return {}

    def judge(self, pool: Pool, stays: Flags, kept: Kept) -> Verdict:
        """Which of the samples that stay so far [N] do not; what takes time is kept."""
        raise NotImplementedError

    def named(self, pool: Pool, like: int) -> str:
        """The name of what a verdict's `like` means."""
        return pool.name(like)

    def liked(self, pool: Pool, like: int) -> tuple[str, bytes]:
        """(name, encoded picture) of what a verdict's `like` means."""
        shard, place = pool.place(like)
        return pool.name(like), pool.opened.sample(shard, place).image


def nothing(count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """(reason, score, like) of `count` samples that nothing is said of."""
    return np.zeros(count, np.uint8), np.full(count, np.nan, np.float32), np.full(count, NOBODY, np.int64)
