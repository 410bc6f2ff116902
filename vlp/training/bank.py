"""The last Q pairs of all ranks, with which an objective compares the batch: first in, first out (MoCo, 1911.05722)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlp.batch import Batch, Embeddings
from vlp.distributed.sharded import Sharded
from vlp.errors import UserError
from vlp.losses import Bank
from vlp.losses._engine.peers import ALONE, Peers
from vlp.training.memory import available


@dataclass
class Part:
    """The rows of one side that this rank keeps: those that its peers brought."""

    peers: Peers
    ranks: list[int]  # the peers' numbers among all ranks
    rows: Tensor  # [Q / batch, peers * b, D], one slot for each step


class PairBank:
    """Embeddings of the last Q pairs of all ranks, kept once a step is taken.

    Pair number p of the run lies in row p mod Q, so the content does not depend on how many ranks hold it. On a grid a
    rank keeps the captions of its column and the images of its row, which together are the bank for every image and
    every caption; with other schedules, and for objectives that ask for it, every rank keeps all of it. The keys are
    the model's own embeddings or its teacher's, as the objective says; of K captions a picture they take turns.
    """

    name = "bank"

    def __init__(self, objective: Sharded, asked: Bank, *, batch: int, width: int = 0) -> None:
        """What `objective` asked for, into which `batch` pairs come in each step (all ranks take part).

        `width` is that of the embeddings; 0: it is not known yet. Raises UserError if the length is no multiple of
        `batch`, or more than memory has room for.
        """
        if asked.pairs % batch:
            raise UserError(
                f"loss.queue is {asked.pairs:,}, but it should be a multiple of training.batch, {batch:,}; "
                f"set it to {-(-asked.pairs // batch) * batch}"
            )
        self.objective, self.keys, self.batch, self.slots = objective, asked.keys, batch, asked.pairs // batch
        world = objective.world
        self.steps = 0  # whose pairs came in
        self.coming: dict[str, Tensor] = {}
        everyone: Peers = objective.everyone if world.size > 1 else ALONE
        self.everyone = everyone
        image, text = everyone, everyone
        if objective.bank_in_parts:
            image, text = objective.rows, objective.columns
        number = torch.tensor([world.rank], device=world.device)
        self.parts = {
            side: Part(peers, peers.gather(number)().tolist(), torch.empty(0, device=world.device))
            for side, peers in (("image", image), ("text", text))
        }
        if width:
            self.refuse_too_much(width * (objective.features or torch.float32).itemsize, world.device)

    @staticmethod
    def of(objective: Sharded, *, batch: int, width: int = 0) -> list[PairBank]:
        """The bank of a run whose objective asks for one (all ranks take part)."""
        asked = objective.objective.bank
        return [] if asked is None else [PairBank(objective, asked, batch=batch, width=width)]

    @property
    def full(self) -> int:
        """How many slots have pairs in them."""
        return min(self.steps, self.slots)

    def beside(self, batch: Batch, e: Embeddings) -> Embeddings:
        """The embeddings with the pairs that are kept so far; from now on those of the batch wait to be kept."""
        image, text = e.image, e.text
        if self.keys == "guide":
            if e.guide_image is None or e.guide_text is None:
                raise UserError(
                    f"loss {type(self.objective.objective).__name__} keeps what a teacher says of pairs, and this run "
                    "has no teacher; name one, teacher.name momentum for example"
                )
            image, text = e.guide_image, e.guide_text
        if image.ndim == 3:
            image = image[:, self.steps % image.shape[1]]
        if text.ndim == 3:
            text = text[:, self.steps % text.shape[1]]
        features = self.objective.travelling(image)
        self.coming = {"image": image.detach().to(features), "text": text.detach().to(features)}
        if not self.parts["image"].rows.numel():
            self.allot(self.coming["image"])
        kept = {side: part.rows[: self.full].flatten(0, 1) for side, part in self.parts.items()}
        return replace(e, bank_image=kept["image"], bank_text=kept["text"])

    def allot(self, like: Tensor) -> None:
        """Take memory for all rows, [., D] in the dtype and on the device of `like`; UserError if it is not there."""
        self.refuse_too_much(like.shape[-1] * like.element_size(), like.device)
        for part in self.parts.values():
            part.rows = like.new_zeros(self.slots, self.share(part), like.shape[-1])

    def share(self, part: Part) -> int:
        """How many rows of each step this rank keeps of a side."""
        return self.batch // self.objective.world.size * len(part.ranks)

    def refuse_too_much(self, row: int, device: torch.device) -> None:
        """Raise UserError if there is no room for rows of so many bytes, and for all of them in a checkpoint."""
        need = (sum(map(self.share, self.parts.values())) + 2 * self.batch) * self.slots * row
        free = available(device, self.objective.world.local_size)
        if need > free:
            raise UserError(
                f"loss.queue is {self.slots * self.batch:,}, a bank that needs {need / 2**30:.1f} GiB per process with "
                f"its copy for checkpoints, but {free / 2**30:.1f} GiB are free; set it to at most "
                f"{free * self.slots // need * self.batch}"
            )

    def taken(self) -> None:
        """Keep the pairs of the batch in place of the oldest ones (all ranks take part)."""
        slot = self.steps % self.slots
        for side, part in self.parts.items():
            part.rows[slot] = part.peers.gather(self.coming[side])()
        self.objective.brought(self.coming["image"])
        self.coming = {}
        self.steps += 1

    def state_dict(self) -> dict[str, Tensor]:
        """All rows in order, {image, text} [<= Q, D], and how many steps brought pairs (all ranks take part)."""
        if not self.steps:
            return {}
        whole = {side: self.whole(part) for side, part in self.parts.items()}
        return {**whole, "steps": torch.tensor(self.steps)}

    def whole(self, part: Part) -> Tensor:
        """[<= Q, D] the rows of all ranks in the order of pairs (all ranks take part)."""
        own, b = part.ranks.index(self.objective.world.rank), self.batch // self.objective.world.size
        mine = part.rows[: self.full, own * b : (own + 1) * b].contiguous()
        every = self.everyone.gather(mine)().view(self.everyone.size, *mine.shape)
        return every.transpose(0, 1).flatten(0, 2)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there, on any number of ranks."""
        self.steps, self.coming = int(tensors["steps"]) if tensors else 0, {}
        if not tensors:
            return
        size = self.everyone.size
        if not self.parts["image"].rows.numel():
            self.allot(tensors["image"].to(self.parts["image"].rows.device))
        for side, part in self.parts.items():
            by_rank = tensors[side].view(self.full, size, self.batch // size, -1)
            part.rows[: self.full] = by_rank[:, part.ranks].flatten(1, 2)
