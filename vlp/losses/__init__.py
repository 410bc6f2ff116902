"""Contrastive objectives, one per file: losses of the matrix of logits, and what is composed of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.config import COMMON
from vlp.config.bounds import Decay, check
from vlp.losses._engine.among import ALONE, BY_DEFINITION, Among
from vlp.losses._engine.exponents import raised
from vlp.losses._engine.tile import Exponent, Matrix, Side, Term, Tile, Way
from vlp.losses._engine.whole import whole_matrix

__all__ = ["Bank", "Exponent", "Loss", "Matrix", "Objective", "Side", "Softmax", "Term", "Tile"]


@dataclass(frozen=True)
class Bank:
    """What is kept of earlier pairs for an objective."""

    pairs: int  # of all processes
    keys: Literal["own", "guide"] = "own"  # the model's own embeddings, or what its teacher said
    whole: bool = False  # True: each process needs all of them, whatever the schedule


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is trained for: a function of the embeddings of a batch, whose only door to other processes is `among`.

    `Loss` is the kind that is a mean over the matrix of logits. What is made of such losses and of sums over pairs is
    written here in plain torch.
    """

    component_package: ClassVar[str] = "vlp.losses"
    start_scale: ClassVar[float] = 1 / 0.07  # logit scale of new weights (CLIP, 2103.00020, section 2.5)
    start_bias: ClassVar[float] = 0.0  # logit bias of new weights
    meets_captions: ClassVar[bool] = True  # whether captions travel as they are: they may be sent ahead of the pictures
    takes_all: ClassVar[bool] = False  # whether it is given all captions [B, K, D] and views [B, V, D] at once
    needs: ClassVar[tuple[str, ...]] = ()
    """what it cannot do without: ids, numbers, weights, negatives, views, captions (several a picture), guide, bank"""

    def __post_init__(self) -> None:
        check(self, "loss")

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """The losses of a matrix of logits that it is made of, the main one first: what it costs."""
        raise NotImplementedError

    @property
    def needed(self) -> tuple[str, ...]:
        """What it cannot do without, and what it is added to cannot either: names as in `needs`."""
        inside = [name for base in self.bases for name in base.needed]
        ids = ["ids"] * any(loss.uses_ids for loss in self.contrasts)
        keys = ["guide"] * (self.bank is not None and self.bank.keys == "guide")
        return tuple(dict.fromkeys([*self.needs, *["numbers"] * bool(self.per_sample), *inside, *ids, *keys]))

    @property
    def bases(self) -> tuple[Objective, ...]:
        """The objectives that it adds to: what is kept of them and what they learn is its own too."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if isinstance(value, Objective))

    @property
    def bank(self) -> Bank | None:
        """The earlier pairs that it compares the batch with, if any; `Embeddings.bank_image` has them."""
        return next((base.bank for base in self.bases if base.bank is not None), None)

    @property
    def per_sample(self) -> Mapping[str, float]:
        """Numbers that are kept of each sample, by name, with what they begin with; `before` gives them [b]."""
        return {name: first for part in self.bases for name, first in part.per_sample.items()}

    @property
    def per_run(self) -> Mapping[str, float]:
        """Numbers that are kept of the run, by name, with what they begin with; `before` gives them []."""
        return {name: first for part in self.bases for name, first in part.per_run.items()}

    def learnt(self, width: int) -> Mapping[str, Tensor]:
        """First values of the objective's own weights, for embeddings of `width`; `Embeddings.learnt` has them.

        Names are those of the file and of the weight (`barlip_image`); values may be drawn from torch's own generator.
        """
        return {name: first for part in self.bases for name, first in part.learnt(width).items()}

    def before(self, among: Among, name: str, e: Embeddings) -> Tensor:
        """What was kept under a name until this step: [] of the run, [b] of these samples; in the loss's precision.

        What it begins with where nothing has been kept.
        """
        if (kept := among.number(name)) is not None:
            return kept.to(e.precision)
        if name in self.per_run:
            return e.image.new_tensor(self.per_run[name], dtype=e.precision)
        return e.image.new_full((len(e.image),), self.per_sample[name], dtype=e.precision)

    def guide_width(self, width: int) -> int:
        """The width that a teacher's vectors must have beside embeddings of `width`; 0: any."""
        if self.bank is not None and self.bank.keys == "guide":
            return width
        return max((base.guide_width(width) for base in self.bases), default=0)

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective [] over everybody's pairs, differentiable once; `e` are one's own (all take part)."""
        raise NotImplementedError

    def reference(self, e: Embeddings) -> Tensor:
        """The same for one process, by definitions, through autograd: B x B memory, for tests and for reading."""
        return self(e, BY_DEFINITION)


@dataclass(frozen=True, kw_only=True)
class Loss(Objective):
    """A mean over pairs, weighted by `Embeddings.weights`, of (row loss + column loss) / 2.

    A subclass gives the row loss twice: `definition` on the whole matrix, differentiated by autograd, which is what
    the loss *means*; and `powers`, `terms`, `denominator` and `each`, which is how the engine computes it
    without ever having the matrix. The column loss is the same function of the transposed logits. Where powers of the
    logits are not enough, `exponents` says which functions of them are summed.
    """

    uses_bias: ClassVar[bool] = False  # softmax objectives are blind to a constant added to every logit
    uses_ids: ClassVar[bool] = False  # True: `Embeddings.ids` is required
    uses_guide: ClassVar[bool] = False  # True: `Embeddings.guide_image` and `guide_text` are required, and travel
    uses_marks: ClassVar[bool] = False  # True: `Embeddings.marks` is required, and travels
    meets_batch: ClassVar[bool] = True  # False: pairs meet themselves and the bank, and no other pair of the batch
    linear: ClassVar[bool] = False  # True: `each` is a plain sum of terms, so that one pass over the tiles is enough
    least_pairs: ClassVar[int] = 1  # fewer pairs than this leave the objective undefined

    label_smoothing: Annotated[Decay, COMMON] = 0.0
    """Share of the target that is spread evenly over all captions (all images, the other way round), 0 to below 1."""

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """Itself."""
        return (self,)

    # The tile form -----------------------------------------------------------------------------------------------

    @property
    def powers(self) -> tuple[float, ...]:
        """Each p for which the objective needs log sum exp(p * logit) of its rows and columns."""
        return ()

    @property
    def term_count(self) -> int:
        """Length of what `terms` returns."""
        return 0

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """The functions of a tile's logits whose sums along rows and columns the objective needs."""
        return ()

    def denominator(self, tile: Tile) -> Tensor:
        """The tile's logits [r, c], -inf where a pair stays out of the log-sum-exps; may be written in place."""
        return tile.logits

    @property
    def exponent_count(self) -> int:
        """How many exponents there are."""
        return len(self.powers)

    @property
    def mean_count(self) -> int:
        """How many exponents have a mean: they come first."""
        return 0

    def exponents(self, tile: Tile) -> Iterable[Exponent]:
        """The functions of a tile's logits whose log-sum-exps are needed: each power of the denominator.

        Each is used up, in its memory, before the next one is asked for.
        """
        kept, alone = self.denominator(tile), len(self.powers) == 1
        for power in self.powers:
            yield Exponent(raised(kept, power, alone=alone), power)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair in one direction, differentiable in all that `side` knows but its marks."""
        raise NotImplementedError

    # The definition ----------------------------------------------------------------------------------------------

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair in one direction, from the whole matrix."""
        raise NotImplementedError

    def by_definition(self, e: Embeddings, *, way: Way | None = None) -> Tensor:
        """The loss [] of one process's pairs from the whole matrix, or that of one direction."""
        ways: tuple[Way, ...] = ("rows", "columns") if way is None else (way,)
        each = torch.stack([self.definition(whole_matrix(self, e, one)) for one in ways]).sum(0)
        weights = torch.ones_like(each) if e.weights is None else e.weights.to(each.dtype)
        return (weights * each).sum() / (len(ways) * weights.sum())

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss [] of everybody's pairs, tile by tile; its gradients are computed with it, memory is flat in B."""
        return among.contrast(self, e).value


@dataclass(frozen=True, kw_only=True)
class Softmax(Loss):
    """A loss whose target is the pair's own logit, or with label smoothing e: (1 - e) own + e mean over the row."""

    @property
    def term_count(self) -> int:
        """The number of terms."""
        return 1 if self.label_smoothing else 0

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """The sum of the row's logits, for the smoothed target; negative captions are never a target."""
        if not self.label_smoothing:
            return ()
        if tile.local:
            return (Term(tile.logits.new_zeros(()).expand_as(tile.logits), None),)
        return (Term(tile.logits, tile.logits.new_ones(()).expand_as(tile.logits)),)

    def target(self, side: Side) -> Tensor:
        """[n] the target logit of each pair."""
        if not self.label_smoothing:
            return side.positive
        return self.smoothed(side.positive, side.total[0] / side.size)

    def smoothed(self, positive: Tensor, mean: Tensor) -> Tensor:
        """[n] (1 - e) positive + e mean."""
        return (1 - self.label_smoothing) * positive + self.label_smoothing * mean
