"""The sharded loss: an objective over the pairs of all ranks, with the exact gradient of their global mean."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import Tensor

from vlp.batch import Embeddings
from vlp.distributed.agreement import ASPECTS, agree, described
from vlp.distributed.process_groups import GroupPeers
from vlp.distributed.strategies.grid import crossing
from vlp.distributed.strategies.grouped import drawn
from vlp.distributed.strategies.parse import read
from vlp.distributed.strategies.ring import Ring
from vlp.distributed.strategies.strategy import Strategy
from vlp.distributed.world import World
from vlp.losses import Loss
from vlp.losses._engine.contrast import LossResult, Wanted, contrast, differentiable, evaluate
from vlp.losses._engine.peers import Peers, Pending


def sharded(loss: Loss, world: World, negatives: str = "auto") -> Sharded:
    """The objective the trainer calls, `negatives` being one of strategies.parse.FORMS (all ranks take part).

    Raises UserError for a strategy that does not fit the world.
    """
    per_node = max(world.nodes.count(node) for node in set(world.nodes)) if world.size > 1 else 1
    strategy = read(negatives, size=world.size, per_node=per_node)
    if not strategy.exact and strategy.group < world.size and world.rank == 0:
        print(
            f"training.negatives = {strategy} is an APPROXIMATION: a pair meets the negatives of {strategy.group} of "
            f"{world.size} ranks, so loss, gradient and above all the temperature differ from the exact objective's "
            "(grid, one_sided and ring are exact)",
            file=sys.stderr,
            flush=True,
        )
    return Sharded(loss, world, strategy, *crossing(world, strategy))


@dataclass
class Sharded:
    """A function of this rank's Embeddings: the GLOBAL mean loss [], the same on every rank.

    Its gradients are scaled such that the mean over ranks (what DDP takes) is the gradient of one process with all
    pairs, for every parameter, scale and bias included. Every rank must call it with a batch of the same shape, and
    gets a UserError if one does not.
    """

    loss: Loss
    world: World
    strategy: Strategy
    rows: Peers
    columns: Peers
    step: int = 0  # evaluations with a gradient so far; draws the groups of `grouped`, set it when a run resumes
    ahead: tuple[Tensor, Pending] | None = None  # captions that are travelling already

    @property
    def everyone(self) -> GroupPeers:
        """All ranks."""
        return GroupPeers(None, self.world.size, self.world.rank)

    def __call__(self, e: Embeddings) -> Tensor:
        """The loss [], differentiable once (all ranks take part)."""
        if self.world.size == 1:
            return contrast(self.loss, e)
        ahead, self.ahead = self.ahead, None
        agree([*described(e), ahead is not None], (*ASPECTS, "captions sent ahead"), self.world, e.image.device)
        if ahead is not None and ahead[0].data_ptr() != e.text.data_ptr():
            raise RuntimeError("send_ahead was given other captions than the loss; expected the same tensor")
        value = differentiable(lambda own, wanted: self.evaluate(own, wanted, ahead and ahead[1]), e)
        self.step += value.requires_grad
        return value

    def send_ahead(self, text: Tensor) -> None:
        """Starts the captions [b, D] on their way while the images are still being encoded (all ranks take part).

        Of [b, K, D], K captions a picture, those travel that the loss is given first. Only a grid sends ahead.
        """
        if self.world.size == 1 or self.strategy.kind != "grid":
            return
        text = text if text.ndim == 2 else text[:, 0]
        facts = [text.shape[0], text.shape[1], text.element_size()]
        agree(facts, ASPECTS[:3], self.world, text.device)
        self.ahead = (text, self.columns.gather(text.detach()))

    def evaluate(self, e: Embeddings, wanted: Wanted, texts: Pending | None) -> LossResult:
        """Value and gradients by this run's strategy (all ranks take part)."""
        if self.strategy.kind == "ring":
            return Ring(self.everyone).evaluate(self.loss, e, wanted)
        columns = self.columns if self.strategy.kind != "grouped" else self.drawn()
        return evaluate(self.loss, e, wanted, rows=self.rows, columns=columns, everyone=self.everyone, texts=texts)

    def drawn(self) -> Peers:
        """This step's group."""
        group, seed = self.strategy.group, self.strategy.seed
        return drawn(size=self.world.size, rank=self.world.rank, group=group, seed=seed, step=self.step)
