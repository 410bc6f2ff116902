"""What the ranks of a test world keep of the pairs of some steps, against the list of all pairs."""

from dataclasses import dataclass

import torch

from vlp.batch import Batch, Embeddings
from vlp.distributed.sharded import sharded
from vlp.losses import Bank
from vlp.losses.infonce import InfoNCE
from vlp.training.bank import PairBank

BATCH, SLOTS, WIDTH = 12, 3, 4


@dataclass(frozen=True, kw_only=True)
class Asking(InfoNCE):
    """InfoNCE with a bank."""

    pairs: int = BATCH * SLOTS
    whole: bool = False

    @property
    def bank(self):
        return Bank(self.pairs, whole=self.whole)


def step_of(number, *, captions=0):
    """The pairs of one step of the run: every number says where it comes from."""
    pair = torch.arange(BATCH)[:, None] + number * BATCH
    image = pair * 100.0 + torch.arange(WIDTH)
    text = -image if not captions else torch.stack([-image - k / 10 for k in range(captions)], 1)
    return image, text


def given(number, world, **options) -> Embeddings:
    """The rank's share of a step."""
    b = BATCH // world.size
    image, text = (t[world.rank * b : (world.rank + 1) * b] for t in step_of(number, **options))
    return Embeddings(image, text, torch.tensor(1.0), torch.tensor(0.0))


def bank_of(world, negatives, *, whole=False):
    objective = Asking(whole=whole)
    return PairBank(sharded(objective, world, negatives), objective.bank, batch=BATCH)


def batch(e: Embeddings) -> Batch:
    return Batch(e.image, e.text, ("",) * len(e.image))


def fill(bank, world, steps, **options):
    """The bank after these steps, the last of which is handed over and not taken."""
    for number in steps:
        e = given(number, world, **options)
        bank.beside(batch(e), e)
        bank.taken()
    e = given(99, world, **options)
    return bank.beside(batch(e), e)


def expected(steps, **options):
    """({image, text} [<= Q, D] as the checkpoint has them): pair p in row p mod Q."""
    rows = {}
    for number in steps:
        image, text = step_of(number, **options)
        text = text if text.ndim == 2 else text[:, number % text.shape[1]]
        rows[number % SLOTS] = (image, text)
    both = [rows[slot] for slot in sorted(rows)]
    return torch.cat([i for i, _ in both]), torch.cat([t for _, t in both])


def same(bank, steps):
    state = bank.state_dict()
    image, text = expected(steps)
    return torch.equal(state["image"], image) and torch.equal(state["text"], text) and int(state["steps"]) == len(steps)


def as_lists(bank):
    """The bank's state as plain numbers, which go through pipes."""
    return {name: tensor.tolist() for name, tensor in bank.state_dict().items()}


def every_layout(world, states):
    """'' or what is wrong: each layout keeps the last pairs, in the same order, goes on from `states` and counts."""
    from vlp.distributed.plan.traffic import Traffic

    wrong, found = [], None
    layouts = ["ring", "one_sided", f"grid:1x{world.size}", f"grouped:{world.size}"]
    layouts += ["grid:2x2"] if world.size == 4 else []
    for negatives in layouts:
        for whole in (False, True):
            bank = bank_of(world, negatives, whole=whole)
            fill(bank, world, range(2))
            with Traffic() as traffic:
                before = bank.objective.received
                bank.taken()
            if traffic.total != bank.objective.received - before:
                wrong.append(f"{negatives} {whole}: {traffic.total} bytes for {bank.objective.received - before}")
            bank.load_state_dict({})
            for steps in (range(1), range(1, 2), range(2, 7)):
                fill(bank, world, steps)
            if not same(bank, range(7)):
                wrong.append(f"{negatives} {whole}: other pairs")
            kept = fill(bank, world, ())
            sizes = {side: BATCH // world.size * len(part.ranks) for side, part in bank.parts.items()}
            if len(kept.bank_image) != SLOTS * sizes["image"] or len(kept.bank_text) != SLOTS * sizes["text"]:
                wrong.append(f"{negatives} {whole}: {len(kept.bank_text)} captions")
            for state, steps in states:
                resumed = bank_of(world, negatives, whole=whole)
                resumed.load_state_dict({name: torch.tensor(values) for name, values in state.items()})
                fill(resumed, world, range(steps, 8))
                if not same(resumed, range(8)):
                    wrong.append(f"{negatives} {whole}: other pairs after {steps} steps of other ranks")
            found = as_lists(bank)
    return "\n".join(wrong), found
