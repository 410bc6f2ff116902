"""Choice of captions, against a count by hand over the same embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit
from eval.tasks.caption_choice import CaptionChoice
from vlp.errors import UserError
from vlp.models.release import Release


def with_negatives(samples: list[Sample]) -> list[Sample]:
    """Each with the other shape as a false caption, and of circles also another colour; the last has none."""
    swap = {"circle": "square", "square": "circle", "圆": "方块", "方块": "圆"}
    result = []
    for sample in samples[:-1]:
        colour, shape = sample.captions["en"].split()
        false = {"en": [f"{colour} {swap[shape]}"], "zh": [sample.captions["zh"][0] + swap[sample.captions["zh"][1:]]]}
        if shape == "circle":
            false["en"].append("purple circle")
        result.append(replace(sample, metadata={**sample.metadata, "negatives": false, "category": shape}))
    return [*result, samples[-1]]


@pytest.fixture(scope="module")
def split(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> EmbeddedSplit:
    return EmbeddedSplit(release, str(write(tmp_path_factory.mktemp("choice") / "s", with_negatives(samples))))


def test_accuracy_equals_a_count_by_hand(split: EmbeddedSplit) -> None:
    result = CaptionChoice().measure(split)
    for language in ("en", "zh"):
        hits, below, categories = [], [], []
        for sample, image in zip(split.samples[:-1], split.image[:-1], strict=True):
            texts = [sample.captions[language], *sample.metadata["negatives"][language]]
            scores = np.asarray(split.release.embed_texts(texts)) @ image
            below.append(np.mean(scores[1:] < scores[0]))
            hits.append(bool(scores[0] > scores[1:].max()))
            categories.append(sample.metadata["category"])
        measured = {name: result[f"{language}/caption_choice/{name}"] for name in ("accuracy", "pairwise")}
        assert measured["accuracy"].value == pytest.approx(np.mean(hits))
        assert measured["pairwise"].value == pytest.approx(np.mean(below))
        own = [np.mean([h for h, c in zip(hits, categories, strict=True) if c == k]) for k in ("circle", "square")]
        assert result[f"{language}/caption_choice/circle/accuracy"].value == pytest.approx(own[0])
        assert result[f"{language}/caption_choice/per_category"].value == pytest.approx(np.mean(own))
        assert measured["accuracy"].queries_by == split.keys[:-1]
    assert result["en/caption_choice/accuracy"].chance == pytest.approx((12 / 3 + 11 / 2) / 23)
    assert result["zh/caption_choice/accuracy"].chance == pytest.approx(1 / 2)


def test_a_caption_that_equals_its_negative_is_not_preferred(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    same = [replace(s, metadata={"negatives": [s.captions["en"]]}) for s in samples]
    split = EmbeddedSplit(release, str(write(tmp_path / "s", same)))
    result = CaptionChoice().measure(split)
    assert result["en/caption_choice/accuracy"].value == 0
    assert "zh/caption_choice/accuracy" not in result  # a plain list belongs to the first language


def test_what_has_no_false_captions_is_refused(release: Release, shards: Path, split: EmbeddedSplit) -> None:
    plain = EmbeddedSplit(release, str(shards))
    assert CaptionChoice().unfit(plain) == 'it has no false captions (the field "negatives")'
    with pytest.raises(UserError, match="no captions to choose from"):
        CaptionChoice().measure(plain)
    with pytest.raises(UserError, match='no false captions in "fr"'):
        CaptionChoice(languages=("fr",)).unfit(split)
