"""Winoground's scores, against the published definition pair by pair."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit
from eval.tasks import winoground as module
from eval.tasks.winoground import Winoground, pair_scores
from vlp.errors import UserError
from vlp.models.release import Release


def paired(samples: list[Sample]) -> list[Sample]:
    """Pairs of a circle and a square of one colour."""
    return [replace(s, metadata={"pair": n // 2, "category": f"half {n // 12}"}) for n, s in enumerate(samples)]


def test_docstring_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_scores_equal_the_definition(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    split = EmbeddedSplit(release, str(write(tmp_path / "s", paired(samples))))
    result = Winoground().measure(split)
    for language in ("en", "zh"):
        text, image, group = [], [], []
        for first in range(0, 24, 2):
            captions = np.asarray(release.embed_texts([s.captions[language] for s in split.samples[first : first + 2]]))

            def s(caption: int, picture: int, vectors: np.ndarray = captions, first: int = first) -> float:
                return float(vectors[caption] @ split.image[first + picture])

            text.append(s(0, 0) > s(1, 0) and s(1, 1) > s(0, 1))
            image.append(s(0, 0) > s(0, 1) and s(1, 1) > s(1, 0))
            group.append(text[-1] and image[-1])
        for name, expected in (("text", text), ("image", image), ("group", group)):
            measured = result[f"{language}/winoground/{name}_score"]
            assert measured.value == pytest.approx(np.mean(expected))
            assert measured.queries_by == tuple(str(n) for n in range(12))
            half = result[f"{language}/winoground/half 0/{name}_score"]
            assert half.value == pytest.approx(np.mean(expected[:6]))


def test_chance_is_that_of_random_scores() -> None:
    scores = np.random.default_rng(0).random((200_000, 2, 2))
    for name, values in pair_scores(scores).items():
        assert values.mean() == pytest.approx(module.CHANCE[name], abs=0.005)


def test_equal_scores_are_no_success() -> None:
    assert not any(score.any() for score in pair_scores(np.ones((3, 2, 2))).values())


def test_half_a_pair_is_refused(
    release: Release, samples: list[Sample], shards: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    split = EmbeddedSplit(release, str(write(tmp_path / "s", paired(samples)[:-1])))
    with pytest.raises(UserError, match='1 samples of the pair "11", but two are expected'):
        Winoground().measure(split)
    assert "no pairs" in Winoground().unfit(EmbeddedSplit(release, str(shards)))
