"""The step of a run that looks at more pairs than it trains on: candidates are encoded, and some of them chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Embeddings
from vlp.choosers import Chooser
from vlp.errors import UserError
from vlp.losses._engine.peers import Peers
from vlp.training.gradient import Buffers, apart, split
from vlp.training.teaching import Guide

SAME = 1e-5  # by which a feature may differ in training mode from the one of evaluation mode, to count as the same
FEW = 4  # pairs by which that is found out


@dataclass(frozen=True)
class Chosen:
    """The pairs of a step, and what was made of them on the way."""

    batch: Batch
    features: Embeddings
    """of the candidates that were chosen, without a graph; text is [b, D], of the first caption"""


@dataclass
class Choosing:
    """A chooser at work on one rank. All ranks make the same calls in the same order."""

    chooser: Chooser
    guide: Guide | None
    everyone: Peers
    batch: int
    """pairs that all ranks train on together"""
    rows: int = 0
    """pairs that are encoded at once; 0: all of a rank's"""
    steady: bool | None = None
    """whether a pair's features in training mode are those that were made to choose; None: not known yet"""

    @property
    def candidates(self) -> int:
        """Pairs that all ranks look at together."""
        return self.chooser.candidates(self.batch)

    def __call__(self, model: nn.Module, batch: Batch, chance: tuple[int, int]) -> Chosen:
        """The pairs of this rank's candidates that are trained on; `chance`: (seed, step). All ranks participate."""
        first = said_first(batch)
        e = self.encoded(model, first)
        if self.guide is not None:
            e = self.guided(first, e)
        rows = self.chooser.choose(e, self.everyone, batch=self.batch, chance=chance)
        return Chosen(batch.take(rows), taken(e, rows))

    def guided(self, batch: Batch, e: Embeddings) -> Embeddings:
        """With what the teacher says. Raises UserError for one that says the same of both sides of a pair."""
        assert self.guide is not None
        said, start = list[tuple[Tensor, Tensor]](), 0
        for piece in self.pieces(batch) if self.guide.compares else ():
            own = taken(e, torch.arange(start, start + len(piece), device=e.image.device))
            start += len(piece)
            with torch.no_grad():
                said.append(self.guide(piece, own))
        if not said or torch.equal(*said[0]):
            raise UserError(
                "the teacher of this run says the same of a picture and of its caption (teacher.name own, or stored "
                "vectors of one kind), so that it cannot tell which pairs are good ones to choose; take frozen, "
                "momentum, or stored vectors of both kinds"
            )
        image, text = (torch.cat(parts) for parts in zip(*said, strict=True))
        return replace(e, guide_image=image, guide_text=text)

    def encoded(self, model: nn.Module, batch: Batch) -> Embeddings:
        """The candidates' embeddings in evaluation mode."""
        training = model.training
        model.eval()
        with torch.no_grad():
            e = apart(model, self.pieces(batch), 0, None)
        model.train(training)
        return replace(e, ids=batch.ids)

    def pieces(self, batch: Batch) -> list[Batch]:
        """What is encoded at once: as large on any number of ranks, so that features are the same to the bit."""
        alone = self.candidates // self.chooser.parts
        rows = min(self.rows or alone, alone)
        return [piece for block in split(batch, alone) for piece in split(block, rows)]

    def reusable(self, model: nn.Module, chosen: Chosen, any_rank: Callable[[bool], bool]) -> Embeddings | None:
        """The chosen pairs' embeddings for a step that would encode them without a graph again; None if it has to.

        It has to where training mode is another (dropout, batch norms), and with several captions or views, or
        negatives. All ranks participate, and come to the same answer.
        """
        batch = chosen.batch
        if batch.text.ndim > 2 or batch.image.ndim > 4 or batch.negatives is not None:
            return None
        if self.steady is None:
            few, buffers = batch[:FEW], Buffers(model)
            with torch.no_grad():
                again = apart(model, [few], 1, None)
            buffers.restore()
            both = [(again.image, chosen.features.image), (again.text, chosen.features.text)]
            self.steady = not any_rank(any(bool((a - b[:FEW]).abs().max() > SAME) for a, b in both))
        return chosen.features if self.steady else None


def said_first(batch: Batch) -> Batch:
    """The batch with the first view and the first caption of each sample alone: candidates are looked at by these."""
    first: dict[str, Any] = {}
    for name, several in (("image", 5), ("text", 3), ("teacher_text", 3)):
        tensor = getattr(batch, name)
        first[name] = tensor[:, 0] if tensor is not None and tensor.ndim == several else tensor
    return replace(batch, negatives=None, negatives_keep=None, **first)


def taken(e: Embeddings, rows: Tensor) -> Embeddings:
    """Some pairs, as far as a choice knows of them."""
    some = {name: getattr(e, name) for name in ("image", "text", "guide_image", "guide_text", "ids")}
    cut: dict[str, Any] = {name: None if t is None else t[rows] for name, t in some.items()}
    return replace(e, **cut)
