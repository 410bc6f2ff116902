"""Graded retrieval, against the definition one query at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from eval.embeddings.split import EmbeddedSplit
from eval.tasks import graded as module
from eval.tasks.graded import Graded
from vlp.models.release import Release


@pytest.fixture(scope="module")
def split(release: Release, shards: Path) -> EmbeddedSplit:
    return EmbeddedSplit(release, str(shards))


def dcg(gains: list[float]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:10]))


def by_hand(scores: np.ndarray, gains: list[float]) -> float:
    order = sorted(range(len(gains)), key=lambda i: (-scores[i], gains[i]))
    return dcg([gains[i] for i in order]) / dcg(sorted(gains, reverse=True))


@pytest.mark.parametrize("in_memory", [8 * 50, 2**24])
def test_ndcg_equals_the_definition(split: EmbeddedSplit, in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture with the caption counts 15, one of the same shape 3, one by the same artist 1."""
    monkeypatch.setattr(module, "SCORES_IN_MEMORY", in_memory)
    result = Graded(gains={"subgroup": 3.0, "artist": 1.0}).measure(split)
    for language in ("en", "zh"):
        texts = list(dict.fromkeys(s.captions[language] for s in split.samples))
        scores = np.asarray(split.release.embed_texts(texts)) @ split.image.T
        expected = []
        for text, row in zip(texts, scores, strict=True):
            own = [s for s in split.samples if s.captions[language] == text]
            gains = []
            for s in split.samples:
                same_shape = any(s.metadata["subgroup"] == o.metadata["subgroup"] for o in own)
                same_artist = any(s.metadata["artist"] == o.metadata["artist"] for o in own)
                gains.append(15.0 if s.captions[language] == text else max(3.0 * same_shape, 1.0 * same_artist))
            expected.append(by_hand(row, gains))
        measured = result[f"{language}/text_to_image/ndcg@10"]
        assert measured.per_query == pytest.approx(expected)
        assert measured.queries_by == tuple(texts)
        assert 0 < measured.chance < 1


def test_pictures_look_for_others(split: EmbeddedSplit) -> None:
    measured = Graded(gains={"subgroup": 1.0}).measure(split)["image_to_image/ndcg@10"]
    for row, value in enumerate(measured.per_query):
        others = [i for i in range(24) if i != row]
        same = [float(split.samples[i].metadata["subgroup"] == split.samples[row].metadata["subgroup"]) for i in others]
        assert value == pytest.approx(by_hand(split.image[others] @ split.image[row], same))


def test_without_the_fields_there_is_nothing_to_grade(split: EmbeddedSplit) -> None:
    assert Graded(gains={"concept": 1.0}).unfit(split) == "its samples have none of the fields concept"
