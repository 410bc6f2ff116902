"""Composed pictures of two things, and captions that differ in their order alone."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from eval.datasets.word_order import WordOrder
from eval.embeddings.split import EmbeddedSplit
from eval.tasks.caption_choice import CaptionChoice
from eval.tasks.winoground import Winoground
from vlp.errors import UserError
from vlp.models.release import Release


def composed(dataset: WordOrder) -> list[Sample]:
    return [sample for _, some in dataset.read(Ledger()) for sample in some]


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB"))


def test_both_orders_have_the_same_halves_and_the_same_words(shards: Path) -> None:
    samples = composed(WordOrder(root=str(shards), pairs=20, different="key"))
    assert len(samples) == 40
    for one, other in zip(samples[::2], samples[1::2], strict=True):
        first, second = pixels(one), pixels(other)
        assert first.shape == (128, 128, 3)
        assert (first[:, :64] == second[:, 64:]).all()
        assert (first[:, 64:] == second[:, :64]).all()
        for language in ("en", "zh"):
            assert Counter(one.captions[language]) == Counter(other.captions[language])
            assert one.metadata["negatives"][language] == [other.captions[language]]
        assert one.metadata["pair"] == other.metadata["pair"]
    left, right = samples[0].metadata["left"], samples[0].metadata["right"]
    words = [key.rsplit("_", 1)[0].replace("_", " ") for key in (left, right)]
    assert samples[0].captions["en"] == f"{words[0]} left of {words[1]}"
    assert left[-1] == right[-1]  # by one artist


def test_the_seed_alone_says_which_pictures_come_together(shards: Path) -> None:
    dataset = WordOrder(root=str(shards), pairs=5, different="key")
    assert composed(dataset) == composed(dataset)
    other = WordOrder(root=str(shards), pairs=5, different="key", seed=1)
    assert [s.captions for s in composed(dataset)] != [s.captions for s in composed(other)]
    assert dataset.sha256() != other.sha256()
    pairs = [frozenset((s.metadata["left"], s.metadata["right"])) for s in composed(dataset)[::2]]
    assert len(set(pairs)) == 5


def test_more_pairs_than_there_are_is_said(shards: Path) -> None:
    with pytest.raises(UserError, match="ask for fewer by pairs"):
        composed(WordOrder(root=str(shards), pairs=500, different="key"))


def test_it_is_an_item_of_winoground_and_a_choice_of_captions(release: Release, shards: Path) -> None:
    split = EmbeddedSplit(release, WordOrder(root=str(shards), pairs=15, different="key"), bar=False)
    pairs, choice = Winoground().measure(split), CaptionChoice().measure(split)
    for language in ("en", "zh"):
        accuracy = choice[f"{language}/caption_choice/accuracy"]
        both = accuracy.per_query.reshape(-1, 2).all(axis=1)
        assert pairs[f"{language}/winoground/text_score"].value == pytest.approx(both.mean())
        assert accuracy.queries == 30
