"""Two languages over the same pictures, against a count by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit
from eval.metrics.agreement import spearman
from eval.tasks.bilingual import Bilingual
from vlp.errors import UserError
from vlp.models.release import Release


@pytest.fixture(scope="module")
def split(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> EmbeddedSplit:
    """Two pictures of twelve things; one thing has another Chinese caption in one picture, one picture no Chinese."""
    some = list(samples)
    some[12] = replace(some[12], captions={"en": some[12].captions["en"], "zh": "红色的圆"})
    some[13] = replace(some[13], captions={"en": some[13].captions["en"]})
    return EmbeddedSplit(release, str(write(tmp_path_factory.mktemp("both") / "s", some)))


def test_recall_and_its_difference_equal_a_count_by_hand(split: EmbeddedSplit) -> None:
    result = Bilingual(ks=(1, 3)).measure(split)
    rows = [i for i, s in enumerate(split.samples) if "zh" in s.captions]
    pairs = list(dict.fromkeys((split.samples[i].captions["en"], split.samples[i].captions["zh"]) for i in rows))
    assert len(rows) == 23
    assert len(pairs) == 13
    hits = {}
    scores = {}
    for side, language in enumerate(("en", "zh")):
        texts = [pair[side] for pair in pairs]
        scores[language] = np.asarray(split.release.embed_texts(texts)) @ split.image[rows].T
        for k in (1, 3):
            hits[language, k] = [
                any(split.samples[rows[i]].captions[language] == text for i in np.argsort(-row)[:k])
                for text, row in zip(texts, scores[language], strict=True)
            ]
            assert result[f"bilingual/{language}/recall@{k}"].value == pytest.approx(np.mean(hits[language, k]))
    for k in (1, 3):
        difference = result[f"bilingual/en-zh/recall@{k}"]
        assert difference.value == pytest.approx(np.mean(hits["en", k]) - np.mean(hits["zh", k]))
        assert difference.interval[0] <= difference.value <= difference.interval[1]
        assert difference.queries_by == tuple(f"{en} | {zh}" for en, zh in pairs)
    assert result["bilingual/rank_correlation"].value == pytest.approx(
        spearman(scores["en"], scores["zh"]).mean(), abs=1e-6
    )
    first = [set(np.argsort(-scores[language], axis=1)[:, :10][0].tolist()) for language in ("en", "zh")]
    assert result["bilingual/overlap@10"].per_query[0] == pytest.approx(len(first[0] & first[1]) / 10)


def test_texts_find_their_translation(split: EmbeddedSplit) -> None:
    result = Bilingual().measure(split)
    both = [s.captions for s in split.samples if "zh" in s.captions]
    for one, other in (("en", "zh"), ("zh", "en")):
        texts = [list(dict.fromkeys(c[language] for c in both)) for language in (one, other)]
        vectors = [np.asarray(split.release.embed_texts(some)) for some in texts]
        best = (vectors[0] @ vectors[1].T).argmax(axis=1)
        right = [
            any(c[one] == text and c[other] == texts[1][b] for c in both)
            for text, b in zip(texts[0], best, strict=True)
        ]
        measured = result[f"bilingual/{one}_to_{other}/recall@1"]
        assert measured.value == pytest.approx(np.mean(right))
        assert (measured.queries, measured.candidates) == (len(texts[0]), len(texts[1]))


def test_a_language_that_is_missing_is_said(split: EmbeddedSplit) -> None:
    with pytest.raises(UserError, match='no pictures with captions in both "en" and "fr"'):
        Bilingual(second="fr").measure(split)
