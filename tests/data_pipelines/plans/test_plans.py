"""Plans of an epoch: every sample once, similar ones together, those that are too similar apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import data_pipelines.plans as room
from data_pipelines.plans import NOBODY, Plan
from data_pipelines.plans.clusters import Clusters
from data_pipelines.plans.neighbours import Neighbours
from vlp.config.components import component, component_names

FILES = [p.stem for p in Path(room.__file__).parent.glob("[!_]*.py")]
S, BATCH = 200, 32


def vectors(count: int = S, groups: int = 25, spread: float = 0.25) -> NDArray[np.float64]:
    """Unit vectors around some centres."""
    rng = np.random.default_rng(3)
    made = rng.normal(size=(groups, 16))[np.arange(count) % groups] + spread * rng.normal(size=(count, 16)) * 4
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def nearest(x: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    cosines = x @ x.T - 3 * np.eye(len(x))
    ids = np.argsort(-cosines, axis=1)[:, :k]
    return ids, np.take_along_axis(cosines, ids, 1)


def inside(order: NDArray[np.int64], x: NDArray[np.float64]) -> float:
    """The mean cosine of each sample to the most similar one of its batch."""
    batches = [order[at : at + BATCH] for at in range(0, len(order) // BATCH * BATCH, BATCH)]
    return float(np.mean([(x[b] @ x[b].T - 3 * np.eye(BATCH)).max(1) for b in batches]))


@pytest.mark.parametrize("name", [name for name in FILES if name != "none"])
@pytest.mark.parametrize("samples", [1, 5, 32, 100])
def test_every_sample_comes_once_also_where_nothing_is_known(name: str, samples: int) -> None:
    assert sorted(FILES) == component_names(Plan)
    plan = component(Plan, name)()
    x = vectors(samples)
    for ids, scores in (nearest(x, 4), (np.full((samples, 4), NOBODY), np.zeros((samples, 4)))):
        rng = np.random.default_rng(0)
        order = plan.plan(ids % 7 if name == "clusters" else ids, scores, BATCH, rng)
        assert np.array_equal(np.sort(order), np.arange(samples))


def test_neighbours_meet_and_an_order_is_a_function_of_its_chance() -> None:
    x = vectors()
    ids, scores = nearest(x, 16)
    plan = Neighbours(group=8, ceiling=1.0)
    order = plan.plan(ids, scores, BATCH, np.random.default_rng(0))
    assert np.array_equal(order, plan.plan(ids, scores, BATCH, np.random.default_rng(0)))
    assert not np.array_equal(order, plan.plan(ids, scores, BATCH, np.random.default_rng(1)))
    shuffled = np.mean([inside(np.random.default_rng(n).permutation(S), x) for n in range(5)])
    assert inside(order, x) > shuffled + 0.07


def test_samples_above_the_ceiling_are_in_different_batches() -> None:
    x = np.concatenate([vectors(96), vectors(96)])  # everybody has a twin
    ids, scores = nearest(x, 12)
    order = Neighbours(group=6, ceiling=0.97).plan(ids, scores, BATCH, np.random.default_rng(0))
    batch_of = np.empty(192, int)
    batch_of[order] = np.arange(192) // BATCH
    assert (batch_of[:96] != batch_of[96:]).all()
    alike = (x @ x.T > 0.97) & ~np.eye(192, dtype=bool)
    assert not (alike & (batch_of[:, None] == batch_of[None])).any()


def test_with_nothing_but_twins_every_sample_still_comes() -> None:
    ids = np.array([[j for j in range(40) if j != i] for i in range(40)])
    order = Neighbours(ceiling=0.5).plan(ids, np.ones(ids.shape), 8, np.random.default_rng(0))
    assert np.array_equal(np.sort(order), np.arange(40))


def test_batches_have_whole_clusters() -> None:
    cluster = np.repeat(np.arange(50), 4)[:, None]
    order = Clusters(size=4).plan(cluster, np.ones((S, 1)), BATCH, np.random.default_rng(0))
    for at in range(0, S // BATCH * BATCH, BATCH):
        _, counts = np.unique(cluster[order[at : at + BATCH]], return_counts=True)
        assert (counts == 4).all()


def test_of_uneven_clusters_few_are_cut() -> None:
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 40, S)
    sizes = np.bincount(cluster)
    order = Clusters(size=64).plan(cluster[:, None], np.ones((S, 1)), BATCH, rng)
    batches = [cluster[order[at : at + BATCH]] for at in range(0, S, BATCH)]
    spread = sum(len({n for n, batch in enumerate(batches) if c in batch}) > 1 for c in range(40))
    assert spread <= len(batches)
    assert np.array_equal(np.bincount(cluster[order]), sizes)
