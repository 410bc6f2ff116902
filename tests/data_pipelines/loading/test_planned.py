"""Epochs out of a plan: a function of (seed, epoch, plan), bound to its shards, the same on any layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipelines.loading.arranged import Alike, Arranging
from data_pipelines.loading.epoch_order import Order
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.planned import EpochPlan, bound_to, drawn
from data_pipelines.loading.position import plan_of
from data_pipelines.plans.neighbours import Neighbours
from data_pipelines.settings import Workers
from data_pipelines.stream import OpenSources, Stream
from vlp.errors import UserError
from vlp.models.image_transform import RandomCrop

COUNTS = (7, 30, 1, 13, 22)  # 73 samples
BATCH = 12


def tokenizer(texts: list[str]) -> Tensor:
    return torch.tensor([[len(text)] for text in texts], dtype=torch.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_shards: Callable[..., Path]) -> Path:
    return make_shards(tmp_path_factory.mktemp("planned"), COUNTS, frozenset({3, 40}))


def opened(stream: Stream, *, size: int = 1, state: Any = None, plan: EpochPlan | None = None) -> list[Loader]:
    loaders = [
        stream.open(
            transform=RandomCrop(size=8), tokenizer=tokenizer, global_batch=BATCH, rank=r, size=size, state=state,
            seed=1, plan=plan,
        )
        for r in range(size)
    ]  # fmt: skip
    assert all(isinstance(one, Loader) for one in loaders)
    return loaders  # type: ignore[return-value]


def numbers(loaders: list[Loader], batches: int) -> list[list[int]]:
    out = []
    for _ in range(batches):
        parts = [next(iter(loader)) for loader in loaders]
        out.append([int(n) for part in parts for n in part.numbers])  # type: ignore[union-attr]
    return out


def plan_for(stream: Stream, first: int = 0, epochs: int = 2) -> EpochPlan:
    """Neighbourhoods of samples that lie side by side in a source."""
    sources = stream.sources()
    assert isinstance(sources, OpenSources)
    order = Order(sources.order, BATCH, 1)
    known = []
    for s in sources.order:
        ids = np.arange(s.size)[:, None] + np.array([1, -1, 2, -2])
        known.append(Alike(np.where((ids >= 0) & (ids < s.size), ids, -1), np.full(ids.shape, 0.5)))
    arranging = Arranging(order, sources.numbering, Neighbours(group=4), known)
    orders = [arranging.epoch(epoch) for epoch in range(first, first + epochs)]
    return EpochPlan(np.stack(orders).astype(np.int32), first, bound_to(sources.shards), {"order": "neighbours"})


def test_an_epoch_has_the_order_of_its_plan_on_any_layout_and_after_a_stop(folder: Path) -> None:
    stream = Stream(shards=str(folder), drop_budget=1.0)
    plan = plan_for(stream)
    (whole,) = opened(stream, plan=plan)
    want = numbers([whole], 14)  # both epochs
    rows = plan.orders[0].tolist()
    assert [n for n in want[0] if n in rows[:BATCH]] == [n for n in rows[:BATCH] if n not in (3, 40)]
    lost = {3, 40}
    given = [n for batch in want[:7] for n in batch]
    assert set(given) == set(range(73)) - lost
    three = opened(stream, size=3, plan=plan)
    assert numbers(three, 5) == want[:5]
    state = [loader.state_dict() for loader in three]
    assert plan_of(state) == plan.sha256
    assert numbers(opened(stream, size=2, state=state, plan=plan), 9) == want[5:]
    (workers,) = opened(replace(stream, workers=Workers(count=2, start_method="fork")), plan=plan)
    assert numbers([workers], 9) == want[:9]
    workers.close()
    with pytest.raises(UserError, match="its plan was"):
        opened(stream, state=state)


def test_a_loader_follows_a_plan_from_the_next_epoch_on(folder: Path) -> None:
    stream = Stream(shards=str(folder), drop_budget=1.0)
    (plain,), (loader,) = opened(stream), opened(replace(stream, workers=Workers(count=2, start_method="fork")))
    assert numbers([loader], 7) == numbers([plain], 7)
    plan = plan_for(stream, first=1, epochs=1)
    loader.follow(plan)
    (expected,) = opened(stream, plan=plan_for(stream, first=0))  # its second epoch is the plan's first
    numbers([expected], 7)
    assert numbers([loader], 7) == numbers([expected], 7)
    assert loader.ledger.state() == expected.ledger.state()
    loader.close()


def test_a_mixture_keeps_its_shares_in_every_batch(
    folder: Path, make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_shards(tmp_path / "other", (10,))
    stream = Stream(mixture={str(folder): 1.0, str(other): 2.5}, mixture_by="factor", drop_budget=1.0)
    plan = plan_for(stream)
    sources = stream.sources()
    assert isinstance(sources, OpenSources)
    order = Order(sources.order, BATCH, 1)
    for epoch in range(2):
        want = np.concatenate(drawn(order, sources.numbering, epoch))
        assert np.array_equal(np.sort(want), np.sort(plan.of(epoch)))
        batches = np.resize(plan.of(epoch), (8, BATCH))
        assert np.ptp((batches >= 73).sum(1)) <= 2
    (loader,) = opened(stream, plan=plan)
    first = numbers([loader], 1)[0]
    assert sum(n >= 73 for n in first) == sum(n >= 73 for n in plan.orders[0][:BATCH])


def test_a_plan_is_whole_or_refused_and_bound_to_its_shards(
    folder: Path, make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    stream = Stream(shards=str(folder), drop_budget=1.0)
    plan = plan_for(stream)
    plan.write(tmp_path / "plan")
    read = EpochPlan.read(tmp_path / "plan")
    assert read.sha256 == plan.sha256
    assert np.array_equal(read.orders, plan.orders)
    assert read.made == plan.made
    data = bytearray((tmp_path / "plan").read_bytes())
    data[-1] ^= 1
    (tmp_path / "plan").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        EpochPlan.read(tmp_path / "plan")
    (tmp_path / "plan").write_bytes(data[:-5])
    with pytest.raises(UserError, match="is not a plan"):
        EpochPlan.read(tmp_path / "plan")
    others = Stream(shards=str(make_shards(tmp_path / "others", (7, 30, 2, 12, 22))), drop_budget=1.0)
    with pytest.raises(UserError, match="made for other shards"):
        opened(others, plan=plan)
    twice = replace(plan, orders=np.concatenate([plan.orders[:, :1], plan.orders[:, :-1]], 1))
    with pytest.raises(UserError, match="draws other samples"):
        opened(stream, plan=twice)
