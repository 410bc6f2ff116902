"""What ranks run in the tests of jest, and the pairs that they choose from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from vlp.batch import Embeddings
from vlp.choosers.jest import Jest
from vlp.distributed.process_groups import GroupPeers
from vlp.distributed.world import World

CHANCE = (3, 17)  # seed, step


def candidates(count: int, *, width: int = 6, guide: int = 5, swapped: float = 0.0, ids: bool = True) -> Embeddings:
    """A learner that knows little, and a teacher that knows much: of swapped pairs both captions are another pair's."""
    rng = np.random.default_rng(count)
    told = torch.from_numpy(rng.integers(0, count // 2, count)) if ids else None
    moved = swapped_rows(count, swapped)

    def pair(noise: float, width: int) -> tuple[Tensor, Tensor]:
        image = rng.normal(size=(count, width))
        text = image + noise * rng.normal(size=(count, width))
        text[moved] = np.roll(text[moved], 1, axis=0)
        return tuple(normalize(torch.from_numpy(one), dim=1) for one in (image, text))  # type: ignore[return-value]

    image, text = pair(2.0, width)
    guide_image, guide_text = pair(0.3, guide)
    e = Embeddings(image, text, torch.tensor(12.0, dtype=torch.float64), torch.tensor(0.0), ids=told)
    return replace(e, guide_image=guide_image, guide_text=guide_text)


def swapped_rows(count: int, share: float) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(1).choice(count, round(share * count), replace=False))


def part(e: Embeddings, rank: int, size: int) -> Embeddings:
    """The candidates of one rank."""
    own = slice(rank * len(e.image) // size, (rank + 1) * len(e.image) // size)
    names = ("image", "text", "guide_image", "guide_text", "ids")
    return replace(e, **{name: None if (t := getattr(e, name)) is None else t[own] for name in names})


def choose_on_ranks(world: World, how: Jest, batch: int) -> Any:
    """(chosen of all candidates by this rank, bytes counted) of a real world."""
    from vlp.distributed.plan.traffic import Traffic

    e = candidates(how.candidates(batch))
    own = part(e, world.rank, world.size)
    with Traffic() as traffic:
        rows = how.choose(own, GroupPeers(None, world.size, world.rank), batch=batch, chance=CHANCE)
    return (rows + world.rank * len(own.image)).tolist(), traffic.total
