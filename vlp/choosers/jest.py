"""Joint example selection (JEST, 2406.17711, sections 3.1 and 3.2): pairs that are hard for the model, and learnable.

A pair's score is the model's loss less a teacher's loss, both given the pairs that are chosen already; in each of n
rounds some pairs are drawn by it. The paper scores with the sigmoid loss and adds what a pair does to those that were
chosen; here a pair has its own softmax loss among them. Written from the paper's description, without its text at hand.

Candidates lie in `blocks` equal parts, each of which gives the same number in each round. Ranks have whole parts, so
that no picture moves, and parts, draws and the order of sums are the same on any number of ranks. The features of what
was drawn travel, once: at most 2 (N - 1) b (D + G) numbers to each of N ranks that train on b pairs each, which is
4 (N - 1) b D for a teacher of the model's width, and as many ids as pairs, where they have any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlp.batch import Embeddings
from vlp.choosers import Chooser
from vlp.config import COMMON
from vlp.config.bounds import AtLeastZero, Count, Decay, Positive
from vlp.errors import UserError
from vlp.losses._engine.peers import Peers


@dataclass(frozen=True)
class Jest(Chooser):
    """Of each step's candidates those that a teacher finds easy and the model does not, chosen together."""

    needs: ClassVar[tuple[str, ...]] = ("guide",)

    discard: Annotated[Decay, COMMON] = 0.8
    """share of the pairs that are looked at and not trained on: at 0.8, five are looked at for each that is trained"""
    rounds: Count = 16
    """draws of a batch; each knows what was drawn before"""
    blocks: Count = 8
    """equal parts that pairs are drawn from; the number of ranks has to divide it, and it the batch"""
    sharpness: Annotated[Positive, COMMON] = 1.0
    """what scores are multiplied by before a draw: more follows them more closely, less draws more at random"""
    reference_scale: AtLeastZero = 0.0
    """logit scale of the teacher's loss; 0: its own, or where it has none the model's at this step"""

    @property
    def parts(self) -> int:
        """The blocks."""
        return self.blocks

    def candidates(self, batch: int) -> int:
        """batch / (1 - discard), rounded up to whole pairs in each block."""
        return self.blocks * math.ceil(batch / self.blocks / (1 - self.discard) - 1e-9)

    def taught(self, scale: float) -> Jest:
        """With the teacher's own scale, unless another is asked for."""
        return replace(self, reference_scale=self.reference_scale or scale)

    def refuse(self, batch: int, ranks: int) -> None:
        """Raise UserError for blocks that do not divide the batch, or that ranks cannot share."""
        if batch % self.blocks:
            raise UserError(
                f"training.batch is {batch}, which choose.blocks = {self.blocks} does not divide; make it a multiple "
                f"of {self.blocks}, or set choose.blocks to a divisor of {batch}"
            )
        if self.blocks % ranks:
            raise UserError(
                f"choose.blocks is {self.blocks}, which {ranks} ranks cannot share evenly; make it a multiple of "
                f"{ranks} (another number of blocks chooses other pairs)"
            )

    def choose(self, e: Embeddings, everyone: Peers, *, batch: int, chance: tuple[int, int]) -> Tensor:
        """As Chooser.choose."""
        count = self.blocks // everyone.size
        size, quota = len(e.image) // count, batch // self.blocks
        first = everyone.rank * count
        blocks = [
            Block.of(self, rows(e, n * size, (n + 1) * size), np.random.default_rng([*chance, first + n]))
            for n in range(count)
        ]
        for turn in range(self.rounds):
            wanted = (turn + 1) * quota // self.rounds - turn * quota // self.rounds
            if not wanted:
                continue
            drawn = [block.draw(turn, wanted) for block in blocks]
            chosen = torch.cat([d + n * size for n, d in enumerate(drawn)])
            if (turn + 1) * quota // self.rounds < quota:
                several = everyones(e, chosen, everyone)
                for block in blocks:
                    block.meet(several)
        return torch.cat([block.chosen() + n * size for n, block in enumerate(blocks)])

    def received(self, batch: int, *, ranks: int, width: int, guide: int, element: int, ids: bool) -> int:
        """Bytes that a choice brings to each rank: features of `element` bytes a number, of all but the last draw."""
        quota = batch // self.blocks
        last = next(n for n in (quota - turn * quota // self.rounds for turn in reversed(range(self.rounds))) if n)
        pairs = self.blocks // ranks * (quota - last)
        return (ranks - 1) * pairs * (2 * (width + guide) * element + 8 * ids)

    def learnability(self, e: Embeddings) -> Tensor:
        """[m] the score of each pair before anything is chosen: among all pairs of `e`."""
        return Block.of(self, e, np.random.default_rng(0)).score


def rows(e: Embeddings, start: int, stop: int) -> Embeddings:
    """Some pairs, with what a choice looks at."""
    assert e.guide_image is not None
    assert e.guide_text is not None
    return replace(
        e,
        image=e.image[start:stop],
        text=e.text[start:stop],
        guide_image=e.guide_image[start:stop],
        guide_text=e.guide_text[start:stop],
        ids=None if e.ids is None else e.ids[start:stop],
    )


def everyones(e: Embeddings, chosen: Tensor, everyone: Peers) -> Embeddings:
    """The pairs that all ranks have just drawn, in order of rank: their features travel in one gather."""
    assert e.guide_image is not None
    assert e.guide_text is not None
    parts = [e.image, e.text, e.guide_image, e.guide_text]
    packed = everyone.gather(torch.cat([part[chosen] for part in parts], 1))()
    image, text, guide_image, guide_text = torch.split(packed, [part.shape[1] for part in parts], 1)
    ids = None if e.ids is None else everyone.gather(e.ids[chosen])()
    return replace(e, image=image, text=text, guide_image=guide_image, guide_text=guide_text, ids=ids)


@dataclass
class Losses:
    """The loss of each pair of a block by one model, among other pairs: log-sum-exps that grow with them."""

    image: Tensor  # [m, D]
    text: Tensor  # [m, D]
    scale: Tensor | float
    own: Tensor  # [m] logits of the pairs themselves
    met: list[Tensor] = field(default_factory=list)  # [m], twice: of the captions, and of the images that were met

    @staticmethod
    def of(image: Tensor, text: Tensor, scale: Tensor | float) -> Losses:
        """Nothing has been met yet."""
        own = scale * (image * text).sum(1)
        return Losses(image, text, scale, own, [torch.full_like(own, -torch.inf)] * 2)

    def among(self, image: Tensor, text: Tensor, out: Tensor) -> list[Tensor]:
        """[m], twice: log-sum-exps over n other pairs of images' logits, and of captions'; `out` [m, n] stays out."""
        logits = [self.scale * self.image @ text.T, self.scale * self.text @ image.T]
        return [one.masked_fill(out, -torch.inf).logsumexp(1) for one in logits]

    def meet(self, image: Tensor, text: Tensor, out: Tensor) -> None:
        """More pairs are there."""
        both = zip(self.met, self.among(image, text, out), strict=True)
        self.met = [torch.logaddexp(before, more) for before, more in both]

    def values(self, met: list[Tensor]) -> Tensor:
        """[m] the mean of both directions' losses."""
        return torch.stack([torch.logaddexp(self.own, one) - self.own for one in met]).mean(0)


@dataclass
class Block:
    """The candidates of one part, in the state of a choice."""

    e: Embeddings
    learner: Losses
    reference: Losses
    sharpness: float
    gumbel: NDArray[np.float64]  # [rounds, m]
    score: Tensor  # [m]
    taken: Tensor  # [m] bool

    @staticmethod
    def of(how: Jest, e: Embeddings, rng: np.random.Generator) -> Block:
        """Nothing is chosen yet: pairs are scored among those of their own block."""
        assert e.guide_image is not None
        assert e.guide_text is not None
        own = Losses.of(e.image, e.text, e.scale)
        other = Losses.of(e.guide_image, e.guide_text, how.reference_scale or e.scale)
        out = alike(e, e) | torch.eye(len(e.image), dtype=torch.bool, device=e.image.device)
        learner, reference = (one.values(one.among(one.image, one.text, out)) for one in (own, other))
        gumbel = rng.gumbel(size=(how.rounds, len(e.image)))
        taken = torch.zeros(len(e.image), dtype=torch.bool, device=e.image.device)
        return Block(e, own, other, how.sharpness, gumbel, learner - reference, taken)

    def draw(self, turn: int, wanted: int) -> Tensor:
        """[wanted] pairs, without repetition, in proportion to exp(sharpness * score)."""
        noise = torch.from_numpy(self.gumbel[turn]).to(self.score)
        keys = (self.sharpness * self.score + noise).masked_fill(self.taken, -torch.inf)
        drawn = keys.argsort(descending=True, stable=True)[:wanted]
        self.taken[drawn] = True
        return drawn

    def meet(self, chosen: Embeddings) -> None:
        """More pairs are chosen, by all ranks: the scores are given them."""
        assert chosen.guide_image is not None
        assert chosen.guide_text is not None
        out = alike(self.e, chosen)
        self.learner.meet(chosen.image, chosen.text, out)
        self.reference.meet(chosen.guide_image, chosen.guide_text, out)
        self.score = self.learner.values(self.learner.met) - self.reference.values(self.reference.met)

    def chosen(self) -> Tensor:
        """The pairs that were drawn, ascending."""
        return self.taken.nonzero()[:, 0]


def alike(e: Embeddings, others: Embeddings) -> Tensor:
    """[m, n] which of the others mean the same as a pair, and are no negatives of it."""
    if e.ids is None or others.ids is None:
        return torch.zeros(len(e.image), len(others.image), dtype=torch.bool, device=e.image.device)
    return e.ids[:, None] == others.ids[None]


def by_loops(how: Jest, e: dict[str, NDArray[Any]], *, batch: int, chance: tuple[int, int]) -> list[int]:
    """The same choice for one process that has all candidates, pair by pair, for tests and for reading.

    e: arrays image, text, guide_image, guide_text [M, D], scale [] and ids [M].
    """
    total = len(e["image"])
    size, quota = total // how.blocks, batch // how.blocks
    gumbel = [np.random.default_rng([*chance, n]).gumbel(size=(how.rounds, size)) for n in range(how.blocks)]

    def loss(model: str, i: int, others: list[int]) -> float:
        scale = float(e["scale"]) if model == "" else how.reference_scale or float(e["scale"])
        image, text = e[f"{model}image"], e[f"{model}text"]
        near = [j for j in others if j != i and e["ids"][j] != e["ids"][i]]
        captions = [scale * image[i] @ text[j] for j in [i, *near]]
        images = [scale * text[i] @ image[j] for j in [i, *near]]
        return 0.5 * sum(float(np.log(np.exp(one).sum()) - one[0]) for one in (captions, images))

    chosen: list[int] = []
    for turn in range(how.rounds):
        wanted = (turn + 1) * quota // how.rounds - turn * quota // how.rounds
        drawn: list[int] = []
        for n in range(how.blocks):
            block = range(n * size, (n + 1) * size)
            keys = {}
            for i in block:
                others = chosen or list(block)
                score = loss("", i, others) - loss("guide_", i, others)
                keys[i] = how.sharpness * score + gumbel[n][turn, i - n * size]
            left = sorted((i for i in block if i not in chosen), key=lambda i: -keys[i])
            drawn += left[:wanted]
        chosen += drawn
    return sorted(chosen)
