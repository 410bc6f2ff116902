"""Do all ranks bring the same kind of batch? Asked before features travel: a wrong batch is an error, not a hang."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from vlp.batch import Embeddings
from vlp.distributed.world import World
from vlp.errors import UserError

ASPECTS = (
    "pairs in the batch",
    "width of the features",
    "bytes per element of the features",
    "negative captions per image",
    "ids given",
    "weights given",
    "masks of the negative captions given",
    "gradient of the images wanted",
    "gradient of the captions wanted",
    "any gradient wanted",
    "numbers a teacher says of an image",
    "numbers a teacher says of a caption",
    "marks of a pair",
)


def described(e: Embeddings, features: torch.dtype) -> list[int]:
    """The ASPECTS of a batch whose embeddings travel as `features`, as numbers."""
    grads = torch.is_grad_enabled()
    tensors = (e.image, e.text, e.scale, e.bias, e.negatives)
    beside = (e.guide_image, e.guide_text, e.marks)
    return [
        len(e.image),
        e.image.shape[-1],
        features.itemsize,
        0 if e.negatives is None else e.negatives.shape[1],
        e.ids is not None,
        e.weights is not None,
        e.negatives_keep is not None,
        grads and e.image.requires_grad,
        grads and e.text.requires_grad,
        grads and any(t is not None and t.requires_grad for t in tensors),
        *(0 if t is None else t.shape[-1] for t in beside),
    ]


def agree(facts: list[int], names: tuple[str, ...], world: World, device: torch.device) -> None:
    """Raises UserError on every rank if `facts` differ between ranks (all ranks take part, in one all-reduce)."""
    if world.size == 1:
        return
    if "cpu:gloo" in dist.get_backend_config():
        device = torch.device("cpu")  # else a GPU would first have to finish what it was given
    own = torch.tensor(facts, dtype=torch.int64, device=device)
    extremes = torch.cat([own, -own])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    most, least = extremes.view(2, -1).tolist()
    differing = [k for k in range(len(facts)) if most[k] != -least[k]]
    if not differing:
        return
    every = own.new_zeros(world.size, len(facts))
    every[world.rank] = own
    dist.all_reduce(every)
    aspect = differing[0]
    raise UserError(
        f"the ranks disagree on the {names[aspect]}: {by_rank(every[:, aspect])}; expected the same on every rank"
    )


def by_rank(values: Tensor) -> str:
    """Which ranks have which value, the commonest last.

    >>> by_rank(torch.tensor([8, 7, 8, 8]))
    '7 on rank 1; 8 on the other 3'
    """
    ranks_of: dict[int, list[int]] = {}
    for rank, value in enumerate(values.tolist()):
        ranks_of.setdefault(value, []).append(rank)
    *rare, (common, others) = sorted(ranks_of.items(), key=lambda item: len(item[1]))
    odd = [f"{value} on rank {', '.join(map(str, ranks[:8]))}{' ...' * (len(ranks) > 8)}" for value, ranks in rare]
    return f"{'; '.join(odd)}; {common} on the other {len(others)}"
