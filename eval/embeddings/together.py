"""Ranks that evaluate one model together: each embeds some parts, and all have everything, as one process has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from eval.embeddings.sound import refuse_broken
from vlp.legible import plain
from vlp.models.release import Release, by_length

if TYPE_CHECKING:
    from torch import Tensor

P = TypeVar("P")
R = TypeVar("R")


def _alone(value: Any) -> list[Any]:
    return [value]


@dataclass(frozen=True)
class Ranks:
    """Who takes part in an evaluation; one process, unless said otherwise."""

    rank: int = 0
    size: int = 1
    gather: Callable[[Any], list[Any]] = _alone
    """a value -> those of all ranks, in order of rank (all ranks participate)"""

    def share(self, parts: Sequence[P], compute: Callable[[P], R]) -> list[R]:
        """`compute` of every part, in order; each is computed by one rank (all ranks participate, with equal parts).

        All ranks compute equally often, so that a model whose weights are sharded over them can be `compute`'s: where
        one has no part left, it computes the last one again, for nothing.
        """
        if self.size == 1 or not parts:
            return [compute(part) for part in parts]
        every = self.gather([compute(parts[number]) for number in self.own(len(parts))])
        return [every[i % self.size][i // self.size] for i in range(len(parts))]

    def own(self, count: int) -> list[int]:
        """The numbers of the parts, of `count`, that this rank computes, one a turn."""
        turns = range(self.rank, -(-count // self.size) * self.size, self.size)
        return [min(turn, count - 1) for turn in turns]


@dataclass(frozen=True)
class SharedRelease(Release):
    """A model whose texts are embedded by all ranks together, in the batches of one process."""

    ranks: Ranks = field(default_factory=Ranks)

    def embed_texts(self, texts: str | Sequence[str], batch: int = 512) -> Tensor:
        """As Release's (all ranks participate, with equal texts). Raises UserError for vectors that are not finite."""
        some = [texts] if isinstance(texts, str) else list(texts)
        order = by_length(some)
        parts = [[some[i] for i in order[start : start + batch]] for start in range(0, len(some), batch)]
        if not parts:
            return self.embed_some([])
        by_part = torch.cat(self.ranks.share(parts, self.embed_some))
        vectors = torch.empty_like(by_part).index_copy_(0, torch.tensor(order), by_part)
        refuse_broken(vectors.numpy(), self.name, lambda row: f'the text "{plain(some[row], 60)}"')
        return vectors

    def embed_some(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n, D] of texts that fit one batch, by this rank alone."""
        return super().embed_texts(texts)
