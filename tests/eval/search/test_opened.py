"""`vlp.open_index(folder).search(...)`: three lines of Python that answer what the index answers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vlp
from data_pipelines.sample import Sample
from eval.index.flat import Flat
from eval.search.build import build_gallery
from eval.search.compose import composed
from eval.search.gallery import Gallery
from eval.search.opened import OpenIndex
from vlp.errors import UserError
from vlp.models.release import Release
from vlp.pictures import Limits, decode


@pytest.fixture(scope="module")
def index(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenIndex:
    folder = build_gallery(release, str(shards), tmp_path_factory.mktemp("o") / "index", kind=Flat()).folder
    opened: OpenIndex = vlp.open_index(str(folder))
    return opened


def test_a_text_and_a_picture_get_what_the_index_answers(
    index: OpenIndex, release: Release, samples: list[Sample], tmp_path: Path
) -> None:
    gallery = Gallery.open(index.gallery.folder)
    assert len(index) == len(samples)
    expected = gallery.search(release, np.asarray(release.embed_texts("red circle")), 5)[0]
    answer = index.search("red circle", k=5)
    assert [replace(hit, score=0) for hit in answer] == [replace(hit, score=0) for hit in expected]
    assert [hit.score for hit in answer] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    picture = tmp_path / "picture.png"
    picture.write_bytes(samples[2].image)
    expected = gallery.search(release, np.asarray(release.embed_images(samples[2].image)), 10)[0]
    for given in (picture, samples[2].image, decode(samples[2].image, Limits())):
        assert [hit.key for hit in index.search(given)] == [hit.key for hit in expected]


def test_a_question_of_parts_is_their_weighted_sum(index: OpenIndex, release: Release, samples: list[Sample]) -> None:
    texts, picture = release.embed_texts(["red", "square", "gold"]), release.embed_images(samples[7].image)
    vector = composed(np.concatenate([texts[:1], picture, texts[1:]]), [1, 1, 0.3, -0.3])
    expected = index.gallery.search(release, vector[None], 6)[0]
    assert index.search("red", samples[7].image, more=["square"], less="gold", strength=0.3, k=6) == expected


def test_alike_pictures_are_folded_into_the_best_of_them(index: OpenIndex, samples: list[Sample]) -> None:
    every = index.search("red", k=len(samples))
    (best,) = index.search("red", k=1, fold=-1.0)
    assert best == replace(every[0], alike=tuple(every[1:]))
    assert [hit.key for hit in index.search("red", k=3, rerank=24)] == [hit.key for hit in every[:3]]


@pytest.mark.parametrize("question, less", [((), ()), (("red",), ("red",))])
def test_a_question_that_asks_nothing_is_one_sentence(
    index: OpenIndex, question: tuple[str, ...], less: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"is empty|cancel each other"):
        index.search(*question, less=less, strength=1.0)


def test_texts_and_pictures_are_embedded_in_their_order(release: Release, samples: list[Sample]) -> None:
    made = release.embed(["red", samples[0].image, "blue", samples[1].image])
    texts, pictures = release.embed_texts(["red", "blue"]), release.embed_images([samples[0].image, samples[1].image])
    assert np.allclose(made[[0, 2]], texts, atol=1e-6)
    assert np.allclose(made[[1, 3]], pictures, atol=1e-6)
    assert np.allclose(release.embed("red"), texts[:1], atol=1e-6)
    assert release.embed([]).shape == (0, made.shape[1])
    with pytest.raises(UserError, match="cannot be embedded"):
        release.embed([b"no picture"])


def test_importing_vlp_imports_nothing_heavy() -> None:
    script = "import sys, vlp; vlp.open_index; print(sorted({'torch', 'eval', 'faiss', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_missing_index_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an index"):
        vlp.open_index(tmp_path)
