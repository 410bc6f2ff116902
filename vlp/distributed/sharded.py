"""The sharded loss: an objective over the pairs of all ranks, with the exact gradient of their global mean."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.distributed.agreement import ASPECTS, agree, described
from vlp.distributed.plan.cost import AGREE, AHEAD, Setup, everyone, predicted, pushed, small
from vlp.distributed.process_groups import GroupPeers
from vlp.distributed.strategies.grid import crossing
from vlp.distributed.strategies.grouped import drawn
from vlp.distributed.strategies.parse import read
from vlp.distributed.strategies.ring import Ring
from vlp.distributed.strategies.strategy import Strategy
from vlp.distributed.world import World
from vlp.losses import Objective
from vlp.losses._engine.among import Defined
from vlp.losses._engine.contrast import Contrast, differentiable, evaluate
from vlp.losses._engine.peers import ALONE, Peers, Pending
from vlp.losses._engine.tile import TileForm, Way
from vlp.losses._engine.view import LossResult, Wanted, itself


def sharded(
    objective: Objective, world: World, negatives: str = "auto", *, features: torch.dtype | None = None
) -> Sharded:
    """The objective the trainer calls, `negatives` being one of strategies.parse.FORMS (all ranks take part).

    `features` is the dtype in which embeddings travel and are multiplied; None: as they come. Raises UserError for a
    strategy that does not fit the world.
    """
    strategy = read(negatives, size=world.size, per_node=per_node(world))
    if not strategy.exact and strategy.group < world.size and world.rank == 0:
        print(
            f"training.negatives = {strategy} is an APPROXIMATION: a pair meets the negatives of {strategy.group} of "
            f"{world.size} ranks, so loss, gradient and above all the temperature differ from the exact objective's "
            "(grid, one_sided and ring are exact)",
            file=sys.stderr,
            flush=True,
        )
    return Sharded(objective, world, strategy, *crossing(world, strategy), features=features)


@dataclass
class Sharded:
    """A function of this rank's Embeddings: the GLOBAL mean loss [], the same on every rank.

    Its gradients are scaled such that the mean over ranks (what DDP takes) is the gradient of one process with all
    pairs, for every parameter, scale and bias included. Every rank must call it with a batch of the same shape, and
    gets a UserError if one does not.
    """

    objective: Objective
    world: World
    strategy: Strategy
    rows: Peers
    columns: Peers
    features: torch.dtype | None = None  # of what travels and is multiplied; gradients stay in the embeddings' own
    step: int = 0  # evaluations with a gradient so far; draws the groups of `grouped`, set it when a run resumes
    ahead: tuple[Tensor, Pending] | None = None  # captions that are travelling already

    met: bool = False  # the ranks have met for the next loss
    numbers: Mapping[str, Tensor] = field(default_factory=dict)  # what the objective kept: of the run, of samples
    kept: dict[str, Tensor] = field(default_factory=dict)  # what it keeps of this step
    times: dict[str, int] = field(default_factory=dict)  # how often it did
    received: float = 0.0  # bytes that the losses so far brought to this rank, by the plan's formulas
    waited: float = 0.0  # seconds in which this rank was at the loss and others were not yet

    @property
    def everyone(self) -> GroupPeers:
        """All ranks."""
        return GroupPeers(None, self.world.size, self.world.rank)

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.world.size

    @property
    def bank_in_parts(self) -> bool:
        """Whether a rank's part of the bank is that of its grid row and column, and not the whole bank."""
        bank = self.objective.bank
        return self.size > 1 and self.strategy.kind == "grid" and not (bank is not None and bank.whole)

    def brought(self, image: Tensor) -> None:
        """Count the bytes of a push to the bank, of both sides of pairs like `image` [b, D]."""
        if self.size > 1:
            self.received += pushed(
                self.setup(image, image.element_size()), self.strategy, parts=self.bank_in_parts
            ).received

    def setup(self, image: Tensor, element: int) -> Setup:
        """The run as the plan sees it, for `image` [b, D] of this rank, `element` bytes a number as they travel."""
        b, width = image.shape
        return Setup(ranks=self.world.size, pairs=b, width=width, per_node=per_node(self.world), element=element)

    def __call__(self, e: Embeddings) -> Tensor:
        """The objective [], differentiable once (all ranks take part)."""
        if self.size > 1:
            facts = described(e, self.travelling(e.image))
            self.meet([*facts, self.ahead is not None], (*ASPECTS, "captions sent ahead"), e.image.device)
            self.met = True
        if self.ahead is not None and self.ahead[0].data_ptr() != e.text.data_ptr():
            raise RuntimeError("send_ahead was given other captions than the loss; expected the same tensor")
        value = self.objective(e, self)
        self.ahead = None
        self.step += value.requires_grad
        return value

    @property
    def rank(self) -> int:
        """Which of them this is."""
        return self.world.rank

    def contrast(self, loss: Defined, e: Embeddings, *, way: Way | None = None) -> Contrast:
        """The mean of a loss over the pairs of all ranks, differentiable once (all ranks take part).

        `way`: of one direction alone, that of images (rows) or of captions (columns).
        """
        texts = None
        travel = loss.meets_batch or way != "rows"
        if travel and self.ahead is not None and self.ahead[0].data_ptr() == e.text.data_ptr():
            texts, self.ahead = self.ahead[1], None
        if self.size > 1:
            self.received += self.bytes(loss, e, ahead=texts is not None, met=self.met, way=way)
            self.met = False
        return differentiable(lambda own, wanted: self.evaluate(loss, own, wanted, texts, way=way), e)

    def begin(self, numbers: Mapping[str, Tensor]) -> None:
        """Before a step: what the objective kept until now; nothing is kept of this one yet."""
        self.numbers, self.kept, self.times = numbers, {}, {}

    def number(self, name: str) -> Tensor | None:
        """What the objective kept under a name before this step."""
        return self.numbers.get(name)

    def keep(self, name: str, value: Tensor) -> None:
        """Keep another value, if the step is taken: with several captions a picture the mean over them."""
        times = self.times[name] = self.times.get(name, 0) + 1
        before = self.kept.get(name, 0.0)
        self.kept[name] = before + (value.detach() - before) / times

    def total(self, own: Tensor) -> Tensor:
        """The sum over ranks, differentiable (all ranks take part)."""
        if self.size == 1:
            return own
        self.received += 2 * own.numel() * own.element_size() * (self.size - 1) / self.size
        return Total.apply(own, self.everyone)  # type: ignore[no-any-return]

    def send_ahead(self, text: Tensor) -> None:
        """Starts the captions [b, D] on their way while the images are still being encoded (all ranks take part).

        Of [b, K, D], K captions a picture, those travel that the loss is given first. Only a grid sends ahead.
        """
        if self.size == 1 or self.strategy.kind != "grid" or not self.objective.meets_captions:
            return
        text = text if text.ndim == 2 else text[:, 0]
        features = self.travelling(text)
        facts = [text.shape[0], text.shape[1], features.itemsize]
        self.meet(facts, ASPECTS[:3], text.device)
        self.ahead = (text, self.columns.gather(text.detach().to(features)))

    def meet(self, facts: list[int], names: tuple[str, ...], device: torch.device) -> None:
        """Wait for all ranks, which have to agree on the facts (all ranks take part)."""
        begun = time.perf_counter()
        agree(facts, names, self.world, device)
        self.waited += time.perf_counter() - begun

    def travelling(self, embeddings: Tensor) -> torch.dtype:
        """The dtype in which embeddings travel."""
        return self.features or embeddings.dtype

    def evaluate(
        self, loss: TileForm, e: Embeddings, wanted: Wanted, texts: Pending | None, *, way: Way | None = None
    ) -> LossResult:
        """Value and gradients by this run's strategy (all ranks take part)."""
        if self.features is not None:
            wanted, e = replace(wanted, dtype=e.image.dtype), rounded(e, self.features)
        if self.world.size == 1:
            return evaluate(loss, e, wanted, way=way)
        everyone = self.everyone
        if self.stays(loss):
            return evaluate(loss, e, wanted, everyone=everyone, way=way)
        if self.strategy.kind == "ring":
            return Ring(everyone).evaluate(loss, self.parted(e, ALONE, everyone), wanted, way=way)
        columns = self.columns if self.strategy.kind != "grouped" else self.drawn()
        peers: dict[str, Peers] = {"rows": self.rows, "columns": columns, "everyone": everyone}
        return evaluate(loss, self.parted(e, self.rows, columns), wanted, **peers, texts=texts, way=way)

    def stays(self, loss: TileForm) -> bool:
        """Whether nothing has to travel for a loss: pairs meet the bank alone, and every rank has all of it."""
        return not loss.meets_batch and not self.bank_in_parts

    def parted(self, e: Embeddings, rows: Peers, columns: Peers) -> Embeddings:
        """The embeddings with this rank's parts of a bank of which it has all."""
        if self.bank_in_parts:
            return e

        def part(bank: Tensor | None, peers: Peers) -> Tensor | None:
            return None if bank is None else bank.tensor_split(peers.size)[peers.rank]

        text, taught_text = part(e.bank_text, rows), part(e.bank_guide_text, rows)
        image, taught_image = part(e.bank_image, columns), part(e.bank_guide_image, columns)
        e = replace(e, bank_image=image, bank_text=text)
        return replace(e, bank_guide_image=taught_image, bank_guide_text=taught_text)

    def drawn(self) -> Peers:
        """This step's group."""
        group, seed = self.strategy.group, self.strategy.seed
        return drawn(size=self.world.size, rank=self.world.rank, group=group, seed=seed, step=self.step)

    def known(self, e: Embeddings) -> tuple[str, ...]:
        """The sides of which a teacher says what they are themselves."""
        if self.travelling(e.image) != e.image.dtype:
            return ()
        sides = (("rows", e.guide_image, e.image), ("columns", e.guide_text, e.text))
        return tuple(side for side, guide, own in sides if itself(guide, own))

    def bytes(self, loss: TileForm, e: Embeddings, *, ahead: bool, met: bool, way: Way | None = None) -> float:
        """What the loss of these embeddings and its gradient bring to this rank, as `vlp plan` has it.

        ahead: whether captions were sent ahead; met: whether the ranks met for this one.
        """
        ids = 0 if e.ids is None or not loss.uses_ids else e.ids.numel() // len(e.ids)
        number = e.precision.itemsize
        weights = 0 if e.weights is None else number
        marks = 0 if e.marks is None or not loss.uses_marks else e.marks.shape[1]
        guide = e.image[:, :0] if e.guide_image is None or not loss.uses_guide else e.guide_image
        setup = replace(
            self.setup(e.image, self.travelling(e.image).itemsize),
            statistics=loss.exponent_count,
            means=loss.mean_count,
            terms=0 if loss.linear else loss.term_count,
            beside=8 * ids + weights + number * marks,
            guide=guide.shape[1],
            guide_element=guide.element_size(),
            known=self.known(e),
            way=way or gradients(e),
            batch=loss.meets_batch,
        )
        not_met = 0 if met else AGREE
        if self.stays(loss):
            return (everyone(setup) + small(setup, weights - not_met)).received
        not_asked = (AHEAD if self.strategy.kind == "grid" and not ahead else 0) + not_met
        return (
            predicted(setup, self.strategy).received + small(setup, weights - not_asked).received
        )  # weights are summed


def gradients(e: Embeddings) -> Literal["both", "rows", "columns"]:
    """Which sides' gradients travel; where no side has one, the images' do, for that of the scale."""
    if not torch.is_grad_enabled() or (e.image.requires_grad and e.text.requires_grad):
        return "both"
    return "columns" if e.text.requires_grad else "rows"


class Total(torch.autograd.Function):
    """A sum over ranks. A rank's own gradient goes through it `size` times over: their mean is then the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, everyone: Peers) -> Tensor:
        """The sum (all ranks take part)."""
        ctx.size = everyone.size
        return everyone.sum(own.detach())

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """No collective: what follows the sum is the same on every rank."""
        return upstream * ctx.size, None


def rounded(e: Embeddings, features: torch.dtype) -> Embeddings:
    """The embeddings as `features`."""
    names = ("image", "text", "negatives", "bank_image", "bank_text")
    given: dict[str, Any] = {name: getattr(e, name) for name in names}
    given = {name: None if t is None else t.to(features) for name, t in given.items()}
    return replace(e, **given)


def per_node(world: World) -> int:
    """The most ranks that share a node."""
    return max(world.nodes.count(node) for node in set(world.nodes)) if world.size > 1 else 1
