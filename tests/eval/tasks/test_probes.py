"""Classifiers that learn from embeddings: neighbours, linear probe and few-shot, on a real model's vectors."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval import classified, probing
from eval.embeddings.split import EmbeddedSplit
from eval.metrics.logistic import fit
from eval.tasks import few_shot
from eval.tasks.few_shot import FewShot, two_way_interval
from eval.tasks.knn import NearestNeighbours
from eval.tasks.linear_probe import LinearProbe
from vlp.errors import UserError
from vlp.models.release import Release


@pytest.fixture(scope="module")
def train(samples: list[Sample], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("train") / "s", [replace(s, key=f"{s.key}_t") for s in samples[:20]]))


@pytest.fixture(scope="module")
def split(release: Release, shards: Path) -> EmbeddedSplit:
    return EmbeddedSplit(release, str(shards))


def colours(split: EmbeddedSplit) -> np.ndarray:
    return np.array([s.metadata["subgroup"] for s in split.samples])


@pytest.mark.parametrize("module", [few_shot, probing, classified])
def test_docstring_examples(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_the_nearest_neighbour_of_a_picture_that_was_learned_from_is_itself(split: EmbeddedSplit, train: str) -> None:
    result = NearestNeighbours(train=train, k=1).measure(split)
    learned = EmbeddedSplit(split.release, train)
    nearest = (split.image @ learned.image.T).argmax(axis=1)
    expected = colours(split) == colours(learned)[nearest]
    assert result["knn/subgroup/acc1"].value == pytest.approx(expected.mean())
    assert expected[:20].all()
    assert "knn/subgroup/acc5" not in result  # of two classes


def test_a_linear_probe_is_the_regression_at_the_regularisation_that_was_chosen(
    split: EmbeddedSplit, train: str
) -> None:
    result = LinearProbe(train=train).measure(split)["linear_probe/subgroup/acc1"]
    learned = EmbeddedSplit(split.release, train)
    labels = (colours(learned) == "square").astype(np.int64)
    scores = fit(learned.image, labels, classes=2, c=result.detail["c"]).scores(split.image)
    assert result.value == pytest.approx(((scores[:, 1] > scores[:, 0]) == (colours(split) == "square")).mean())
    best = max(result.detail["tried"].values())
    assert result.detail["tried"][f"{result.detail['c']:.4g}"] == best
    assert (result.queries, result.detail["learned_from"]) == (24, 20)


def test_without_a_shard_set_to_learn_from_the_data_is_divided(split: EmbeddedSplit) -> None:
    classes, learned, tested = LinearProbe().parts(split)
    assert classes == ("circle", "square")
    assert not set(learned.keys) & set(tested.keys)
    assert sorted((*learned.keys, *tested.keys)) == sorted(split.keys)
    assert LinearProbe().parts(split)[1].keys == learned.keys


def test_few_shot_is_the_mean_over_draws(split: EmbeddedSplit, train: str) -> None:
    result = FewShot(train=train, shots=(1, 100), draws=3).measure(split)
    one, every = result["few_shot/subgroup/acc1@1"], result["few_shot/subgroup/acc1@100"]
    assert one.value == pytest.approx(np.mean(one.detail["draws"]))
    assert one.interval[0] <= one.value <= one.interval[1]
    assert every.detail["deviation"] == pytest.approx(0)  # all are drawn each time
    assert every.value >= one.value


def test_the_interval_of_draws_is_wider_than_that_of_queries_alone() -> None:
    hits = np.array([[1.0] * 50 + [0.0] * 50, [1.0] * 90 + [0.0] * 10])
    low, high = two_way_interval(hits)
    alone = two_way_interval(np.tile(hits.mean(axis=0), (2, 1)))
    assert high - low > alone[1] - alone[0]


@pytest.mark.parametrize("task", [NearestNeighbours, LinearProbe, FewShot])
def test_a_field_without_classes_is_refused(task: type, split: EmbeddedSplit) -> None:
    with pytest.raises(UserError, match='0 classes in the field "nothing"'):
        task(label="nothing").unfit(split)
    with pytest.raises(UserError, match="/nowhere/at/all"):
        task(train="/nowhere/at/all").measure(split)
