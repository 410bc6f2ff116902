"""Plans of a run: what is alike against brute force, plans written and followed, what is missing refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipelines.captions import choose_several
from data_pipelines.loading.epoch_order import mix
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.pipeline import Pipeline
from data_pipelines.loading.planned import EpochPlan, Planned
from data_pipelines.plans.clusters import Clusters
from data_pipelines.plans.neighbours import Neighbours
from data_pipelines.sample import Sample
from data_pipelines.settings import Captions
from data_pipelines.stream import OpenSources, Stream
from eval.index.ivf import Ivf
from eval.plans.alike import clusters, kind_for, neighbours
from eval.plans.epochs import EpochPlans, Planning
from eval.plans.vectors import Embedding
from vlp.distributed.background import BackgroundGroup
from vlp.distributed.world import World
from vlp.errors import UserError
from vlp.models.release import Release

CAPTIONS = Captions(weights={"en": 1.0})


def blobs(count: int, groups: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, groups, count)
    x = rng.normal(size=(groups, 16))[label] + 0.1 * rng.normal(size=(count, 16))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32), label


@pytest.mark.parametrize("exact", [True, False])
def test_neighbours_are_those_of_brute_force_and_unread_samples_are_none(exact: bool, tmp_path: Path) -> None:
    x, _ = blobs(1500, 40)
    known = np.ones(1500, bool)
    known[::50] = False
    x[~known] = 0
    kind = kind_for(1500, 2000) if exact else replace(kind_for(1500, 100), probes=32)
    assert isinstance(kind, Ivf) != exact
    found = neighbours(x, x, known, k=5, kind=kind, folder=tmp_path)
    cosines = x @ x.T
    cosines[:, ~known] = -3
    np.fill_diagonal(cosines, -3)
    best = -np.sort(-cosines, axis=1)[:, :5]
    assert (found.ids[~known] == -1).all()
    ids, scores = np.asarray(found.ids[known]), np.asarray(found.scores[known])
    assert known[ids].all()
    assert (ids != np.flatnonzero(known)[:, None]).all()
    assert np.abs(scores - best[known]).max() < (1e-5 if exact else 1)
    assert np.isclose(scores, best[known], atol=1e-5).mean() > 0.95


def test_clusters_are_of_one_kind_and_about_of_the_size_that_was_asked_for() -> None:
    x, label = blobs(800, 10)
    known = np.ones(800, bool)
    known[7] = False
    found = clusters(x, known, count=40, seed=0).ids[:, 0]
    assert found[7] == -1
    made = np.unique(found[known])
    assert 30 <= len(made) <= 50
    pure = [np.unique(label[found == one], return_counts=True)[1].max() / (found == one).sum() for one in made]
    assert np.mean(pure) > 0.95


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample], write: Callable[..., Path]) -> Path:
    """The drawings, and one that is no picture."""
    broken = [replace(s, image=b"nothing") if n == 10 else s for n, s in enumerate(samples)]
    return write(tmp_path_factory.mktemp("planned") / "shapes", broken)


def plans(settings: Planning, run: Path, folder: Path, release: Release) -> EpochPlans:
    sources = Stream(shards=str(folder)).sources()
    beside = release.tokenizer, release.transform
    made = EpochPlans.of(settings, run, World.alone(), sources, captions=CAPTIONS, beside=beside)
    assert made is not None
    return made


def loader(folder: Path, release: Release, state: Any = None, plan: EpochPlan | None = None) -> Loader:
    stream = Stream(shards=str(folder), captions=CAPTIONS, drop_budget=1.0)
    made = stream.open(
        transform=lambda picture, rng: torch.zeros(3, 4, 4, dtype=torch.uint8),
        tokenizer=release.tokenizer,
        global_batch=4,
        state=state,
        plan=plan,
    )
    assert isinstance(made, Loader)
    return made


def epoch(stream: Loader) -> list[int]:
    return [int(n) for _ in range(6) for n in next(iter(stream)).numbers]  # type: ignore[union-attr]


def test_vectors_are_those_of_the_model_and_what_cannot_be_read_has_none(
    folder: Path, release: Release, samples: list[Sample], tmp_path: Path
) -> None:
    sources = Stream(shards=str(folder)).sources()
    assert isinstance(sources, OpenSources)
    embedding = Embedding(release, ("images", "texts"), {"en": 1.0, "zh": 1.0}, sources)
    (made,) = embedding.all(BackgroundGroup(), tmp_path)
    assert np.flatnonzero(~made.known).tolist() == [10]
    good = [s for n, s in enumerate(samples) if n != 10]
    images = release.embed_images([s.image for s in good]).numpy()
    assert np.abs(made.vectors["images"][made.known] - images).max() < 1e-5
    places = [(n // 9, n % 9) for n in range(24) if n != 10]
    said = [
        choose_several({"captions": s.captions}, {"en": 1.0, "zh": 1.0}, 1, random.Random(mix(0, *place)))[0]
        for s, place in zip(good, places, strict=True)
    ]
    assert len(set(said)) > 12  # both languages
    assert np.abs(made.vectors["texts"][made.known] - release.embed_texts(said).numpy()).max() < 1e-5


@pytest.mark.parametrize("order", [Neighbours(group=2, nearest=4, ceiling=1.0), Clusters(size=2)])
def test_a_run_follows_its_plans_also_after_a_stop(order: Any, folder: Path, release: Release, tmp_path: Path) -> None:
    settings = Planning(order=order, every=2, start=1, vectors="across")
    planner, stream = plans(settings, tmp_path, folder, release), loader(folder, release)
    assert not planner.due(stream)
    unplanned = epoch(stream)
    assert planner.due(stream)
    at_the_end = [stream.state_dict()]
    planner.plan(release.encoder, stream)
    assert not planner.due(stream)
    (path,) = (tmp_path / "plans").glob("*.plan")
    plan = EpochPlan.read(path)
    assert isinstance(stream.order, Planned)
    assert plan.covers(1)
    assert plan.covers(2)
    assert not plan.covers(3)
    batches = [[int(n) for n in next(iter(stream)).numbers] for _ in range(3)]  # type: ignore[union-attr]
    in_the_middle = [stream.state_dict()]
    rest = [[int(n) for n in next(iter(stream)).numbers] for _ in range(9)]  # type: ignore[union-attr]
    assert {n for b in batches + rest[:3] for n in b} == set(unplanned)
    again = plans(settings, tmp_path, folder, release)
    resumed = loader(folder, release, in_the_middle, again.followed(in_the_middle))
    assert [[int(n) for n in next(iter(resumed)).numbers] for _ in range(9)] == rest  # type: ignore[union-attr]
    assert again.due(resumed)  # the plan is at its end
    assert again.followed(at_the_end) is None
    before = loader(folder, release, at_the_end)
    again.plan(release.encoder, before)  # killed after it planned, before a checkpoint: the same plan again
    assert [p.name for p in (tmp_path / "plans").iterdir()] == [path.name]
    assert [[int(n) for n in next(iter(before)).numbers] for _ in range(3)] == batches  # type: ignore[union-attr]
    path.unlink()
    with pytest.raises(UserError, match="which is not in"):
        again.followed(in_the_middle)


def test_a_model_that_does_not_change_is_asked_once_and_from_the_first_epoch_on(
    folder: Path, release: Release, model_folder: Path, tmp_path: Path
) -> None:
    settings = Planning(order=Neighbours(group=2, nearest=4, ceiling=1.0), vectors="texts", model=str(model_folder))
    planner, stream = plans(settings, tmp_path, folder, release), loader(folder, release)
    assert planner.due(stream)
    planner.plan(torch.nn.Linear(1, 1), stream)
    first, vectors = epoch(stream), (tmp_path / "plans" / "scratch" / "0-texts.npy").stat().st_mtime_ns
    planner.plan(torch.nn.Linear(1, 1), stream)
    assert set(epoch(stream)) == set(first)
    assert (tmp_path / "plans" / "scratch" / "0-texts.npy").stat().st_mtime_ns == vectors


def endless() -> Iterator[Any]:
    yield from ()


def test_a_pipeline_of_ones_own_cannot_be_planned(release: Release, tmp_path: Path) -> None:
    beside = release.tokenizer, release.transform
    given: dict[str, Any] = {"captions": CAPTIONS, "beside": beside}
    pipeline = Pipeline(f"{__name__}:endless")
    assert EpochPlans.of(Planning(), tmp_path, World.alone(), pipeline, **given) is None
    with pytest.raises(UserError, match=r'plan.order.name is "neighbours", but samples of a pipeline'):
        EpochPlans.of(Planning(order=Neighbours()), tmp_path, World.alone(), pipeline, **given)
