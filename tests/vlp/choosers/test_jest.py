"""Joint example selection: the choice of plain loops, alike on any number of ranks; swapped captions are found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gloo_ranks
import jest_cases
import numpy as np
import pytest
import torch
from jest_cases import CHANCE, candidates, part
from torch import Tensor

import vlp.choosers as room
from vlp.batch import Embeddings
from vlp.choosers import Chooser
from vlp.choosers.jest import Jest, by_loops
from vlp.config.components import component, component_names
from vlp.errors import UserError
from vlp.losses._engine.peers import ALONE

BATCH = 16
HOW = Jest(discard=0.75, rounds=3, blocks=4)


def arrays(e: Embeddings) -> dict[str, Any]:
    names = ("image", "text", "guide_image", "guide_text", "ids")
    given = {name: getattr(e, name).numpy() for name in names if getattr(e, name) is not None}
    return {"ids": np.arange(len(e.image)), "scale": e.scale.numpy(), **given}


@dataclass
class Thread:
    """One of several threads as a peer of the others, that counts what it is given."""

    rank: int
    size: int
    rows: list[Any]
    barrier: threading.Barrier
    received: int = field(default=0)

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        self.rows[self.rank] = rows
        self.barrier.wait(20)
        every = torch.cat(self.rows)
        self.received += (self.size - 1) * rows.nbytes
        self.barrier.wait(20)
        return lambda: every


def by_ranks(how: Jest, e: Embeddings, size: int) -> tuple[list[int], list[int]]:
    """What threads choose together, and the bytes that each was given."""
    rows, barrier = [None] * size, threading.Barrier(size)
    peers, chosen = [Thread(r, size, rows, barrier) for r in range(size)], [torch.empty(0)] * size

    def run(rank: int) -> None:
        own = part(e, rank, size)
        chosen[rank] = how.choose(own, peers[rank], batch=BATCH, chance=CHANCE) + rank * len(own.image)  # type: ignore[arg-type]

    threads = [threading.Thread(target=run, args=(r,)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return torch.cat(chosen).tolist(), [peer.received for peer in peers]


@pytest.mark.parametrize(
    "how",
    [HOW, replace(HOW, rounds=6), replace(HOW, blocks=1, sharpness=0.5), replace(HOW, reference_scale=30.0, rounds=1)],
    ids=["rounds", "more rounds than pairs of a block", "one block", "one round"],
)
@pytest.mark.parametrize("ids", [True, False])
def test_the_choice_is_that_of_plain_loops(how: Jest, ids: bool) -> None:
    e = candidates(how.candidates(BATCH), ids=ids)
    chosen = how.choose(e, ALONE, batch=BATCH, chance=CHANCE).tolist()
    assert chosen == by_loops(how, arrays(e), batch=BATCH, chance=CHANCE)
    assert len(chosen) == BATCH
    assert chosen != how.choose(e, ALONE, batch=BATCH, chance=(3, 18)).tolist()


def test_the_choice_is_the_same_on_any_number_of_ranks_and_only_drawn_features_travel() -> None:
    e = candidates(HOW.candidates(BATCH), width=6, guide=6)
    alone = HOW.choose(e, ALONE, batch=BATCH, chance=CHANCE).tolist()
    for size in (2, 4):
        chosen, received = by_ranks(HOW, e, size)
        assert chosen == alone
        travelling = BATCH // size - HOW.blocks // size * 2  # the last two of each block's four meet nobody any more
        assert received == [(size - 1) * travelling * (4 * 6 * 8 + 8)] * size
        assert received[0] == HOW.received(BATCH, ranks=size, width=6, guide=6, element=8, ids=True)
        assert received[0] <= 4 * (size - 1) * BATCH // size * 6 * 8 + 8 * (size - 1) * BATCH // size


def test_with_a_good_teacher_scores_find_swapped_captions() -> None:
    e = candidates(600, width=16, guide=16, swapped=0.3, ids=False)
    score = HOW.learnability(e).numpy()
    bad = np.zeros(600, bool)
    bad[jest_cases.swapped_rows(600, 0.3)] = True
    assert bad.sum() == 180
    auc = (score[~bad][:, None] > score[bad][None]).mean()
    assert auc >= 0.9
    chosen = Jest(discard=0.5, blocks=4, sharpness=4.0).choose(e, ALONE, batch=300, chance=CHANCE).numpy()
    assert bad[chosen].mean() < 0.15


def test_batches_and_ranks_that_do_not_fit_are_refused_and_candidates_are_whole_blocks() -> None:
    assert Jest(discard=0.8).candidates(512) == 2560
    assert Jest(discard=0.9, blocks=4).candidates(12) == 120
    assert Jest(discard=0.0).candidates(64) == 64
    assert Jest(discard=0.3, blocks=8).candidates(64) == 8 * 12
    Jest(blocks=8).refuse(64, 4)
    with pytest.raises(UserError, match=r"training.batch is 60, which choose.blocks = 8"):
        Jest(blocks=8).refuse(60, 1)
    with pytest.raises(UserError, match=r"3 ranks cannot share"):
        Jest(blocks=8).refuse(64, 3)


def test_a_teacher_s_loss_has_its_own_scale_unless_another_is_asked_for() -> None:
    assert HOW.taught(30.0).reference_scale == 30
    assert replace(HOW, reference_scale=9.0).taught(30.0).reference_scale == 9
    assert HOW.taught(0.0) == HOW


def test_each_file_is_a_chooser() -> None:
    files = sorted(p.stem for p in Path(room.__file__).parent.glob("[!_]*.py"))
    assert files == component_names(Chooser)
    assert all(component(Chooser, name)().candidates(64) >= 64 for name in files)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_real_ranks_choose_the_same_and_bytes_are_the_plans(size: int, tmp_path: Path) -> None:
    answers = gloo_ranks.run(size, jest_cases.choose_on_ranks, HOW, BATCH, folder=tmp_path)
    e = candidates(HOW.candidates(BATCH))
    alone = HOW.choose(e, ALONE, batch=BATCH, chance=CHANCE).tolist()
    assert [row for rows, _ in answers for row in rows] == alone
    assert len({counted for _, counted in answers}) == 1
    assert answers[0][1] == HOW.received(BATCH, ranks=size, width=6, guide=5, element=8, ids=True)
