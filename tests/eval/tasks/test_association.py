"""Associations: against scikit-learn's Jaccard index and all picks by hand."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit
from eval.tasks import association
from eval.tasks.association import Association, chance, jaccard, spoken
from vlp.models.release import Release

SIZES = (5, 12, 7)


@pytest.fixture(scope="module")
def split(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> EmbeddedSplit:
    items = [item for item, size in enumerate(SIZES) for _ in range(size)]
    some = [
        replace(s, metadata={"item": str(item), "cue": ("Owl", "red", "green")[item], "associated": row % 3 == 0})
        for row, (s, item) in enumerate(zip(samples, items, strict=True))
    ]
    return EmbeddedSplit(release, str(write(tmp_path_factory.mktemp("w") / "sets", some)))


def test_docstring_examples() -> None:
    assert doctest.testmod(association, extraglobs={"np": np}).failed == 0


def test_the_index_is_that_of_scikit_learn(split: EmbeddedSplit) -> None:
    found = Association().measure(split)
    values, start = [], 0
    for item, size in enumerate(SIZES):
        rows = slice(start, start + size)
        start += size
        truth = np.array([s.metadata["associated"] for s in split.samples[rows]])
        cue = np.asarray(split.release.embed_texts([spoken(("Owl", "red", "green")[item])]))[0]
        best = np.argsort(split.image[rows] @ cue)[-truth.sum() :]
        values.append(jaccard_score(truth, np.isin(np.arange(size), best)))
    assert found["jaccard"].value == pytest.approx(np.mean(values))
    assert found["jaccard"].queries_by == ("0", "1", "2")
    assert found["jaccard_10_12"].value == pytest.approx(values[1])
    assert found["jaccard_10_12"].queries == 1


@pytest.mark.parametrize("candidates, count", [(5, 2), (6, 4), (10, 3)])
def test_chance_is_the_mean_over_all_picks(candidates: int, count: int) -> None:
    own = set(range(count))
    picks = [set(pick) for pick in combinations(range(candidates), count)]
    assert chance(candidates, count) == pytest.approx(np.mean([len(own & p) / len(own | p) for p in picks]))


def test_a_collapsed_model_picks_nothing_right() -> None:
    assert jaccard(np.zeros(6), np.array([True, True, False, False, False, True])) == 0


def test_sets_of_shards_without_cues_are_left_out(release: Release, shards: Path) -> None:
    assert Association().unfit(EmbeddedSplit(release, str(shards))) == "its pictures come in no sets with a cue"
