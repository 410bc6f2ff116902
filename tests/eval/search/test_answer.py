"""Answers: the hits of a question in words or by a picture, with what was asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit
from eval.index.flat import Flat
from eval.search.answer import ask_picture, ask_text
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from vlp.errors import UserError
from vlp.models.release import Release


@pytest.fixture(scope="module")
def gallery(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return build_gallery(release, str(shards), tmp_path_factory.mktemp("g") / "index", kind=Flat())


def test_hits_of_a_text_are_the_nearest_pictures_best_first(gallery: Gallery, release: Release, shards: Path) -> None:
    split = EmbeddedSplit(release, str(shards))
    scores = split.image @ np.asarray(release.embed_texts(["blue square"]))[0]
    answer = ask_text(gallery, release, "blue square", 6, note="English")
    assert (answer.text, answer.note, answer.picture) == ("blue square", "English", b"")
    assert [hit.score for hit in answer.hits] == pytest.approx(sorted(scores, reverse=True)[:6], abs=1e-5)
    by_key = dict(zip([s.key for s in split.samples], scores, strict=True))
    assert all(by_key[hit.key] == pytest.approx(hit.score, abs=1e-5) for hit in answer.hits)


def test_a_picture_s_own_file_is_its_best_hit(gallery: Gallery, release: Release, samples: list[Sample]) -> None:
    answer = ask_picture(gallery, release, samples[5].image, 1)
    assert (answer.text, answer.picture) == ("", samples[5].image)
    assert answer.hits[0].score == pytest.approx(1, abs=1e-4)


def test_more_than_there_are_gives_all_of_them(gallery: Gallery, release: Release) -> None:
    assert len(ask_text(gallery, release, "red circle", 10**9).hits) == 24


def test_a_picture_that_cannot_be_decoded_is_named(gallery: Gallery, release: Release) -> None:
    with pytest.raises(UserError, match=r"cat\.png cannot be searched for: undecodable picture"):
        ask_picture(gallery, release, b"not a picture", 3, note="cat.png")
