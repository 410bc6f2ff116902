"""An index of captions: a picture finds what is said, every caption a row; it lives as an index of pictures does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.embeddings.embed import embed
from eval.index.flat import Flat
from eval.search.build import build_gallery, main
from eval.search.captioned import captions_of
from eval.search.gallery import Gallery
from eval.search.live import add, remove, update
from eval.search.query import main as search
from eval.search.spool import vectors_of
from vlp.errors import UserError
from vlp.models.release import Release


@pytest.fixture(scope="module")
def several(samples: list[Sample]) -> list[Sample]:
    """Of every third picture there are two more captions in English."""
    more = {"en": ["", "a drawing", "a shape on white"]}
    return [
        replace(s, metadata={**s.metadata, "all_captions": {"en": [s.captions["en"], *more["en"][1:]]}})
        if i % 3 == 0
        else s
        for i, s in enumerate(samples)
    ]


@pytest.fixture(scope="module")
def said(several: list[Sample], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("captions") / "said", several)


@pytest.fixture(scope="module")
def gallery(release: Release, said: Path) -> Gallery:
    return build_gallery(release, str(said), said.with_name("index"), kind=Flat(), of="captions")


def test_a_picture_finds_the_captions_nearest_to_it(gallery: Gallery, release: Release, several: list[Sample]) -> None:
    rows = [(sample.key, language, text) for sample in several for language, text in captions_of(sample)]
    assert len(gallery.vectors) == len(rows) == 2 * 24 + 2 * 8
    pictures = np.asarray(release.embed_images([sample.image for sample in several[:5]]))
    scores = pictures @ np.asarray(release.embed_texts([text for _, _, text in rows])).T
    for query, some in zip(scores, gallery.search(release, pictures, 12), strict=True):
        assert [hit.score for hit in some] == pytest.approx(np.sort(query)[::-1][:12], abs=1e-5)
        for hit in some:
            ((language, text),) = hit.captions.items()
            assert hit.score == pytest.approx(query[rows.index((hit.key, language, text))], abs=1e-5)
    assert some[0].picture().size == (48, 40)  # of the picture that it is said of
    assert gallery.about["measured"] | {"recall": 1} == {"of": "pictures", "queries": 24, "recall": 1, "built": 1}
    assert np.allclose(
        np.sort(np.load(gallery.files / "queries.npy") @ np.ones(32)),
        np.sort(np.asarray(release.embed_images([sample.image for sample in several])) @ np.ones(32)),
        atol=1e-4,
    )


def test_of_embeddings_it_has_the_captions_that_were_embedded(release: Release, said: Path, tmp_path: Path) -> None:
    embed(release, str(said), tmp_path / "store", dtype="float16")
    made = build_gallery(release, str(tmp_path / "store"), tmp_path / "index", kind=Flat(), of="captions")
    assert (len(made.vectors), made.of, made.about["measured"]["of"]) == (24, "captions", "pictures")
    hits = made.search(release, np.asarray(release.embed_texts(["gold square"])), 24)[0]
    assert hits[0].captions == {"en": "gold square"}
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert {hit.captions["en"] for hit in hits} == {f"{hit.key.rsplit('_', 1)[0]}".replace("_", " ") for hit in hits}


def test_it_grows_and_shrinks_by_pictures(
    release: Release, several: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    build_gallery(release, str(write(tmp_path / "a", several[:6])), tmp_path / "index", kind=Flat(), of="captions")
    count = [sum(len(captions_of(sample)) for sample in several[:n]) for n in range(24)]
    more = str(write(tmp_path / "b", several[6:9]))
    assert len(add(release, more, tmp_path / "index").gallery.vectors) == count[9]
    with pytest.raises(UserError, match=r"has a picture with the key .* already"):
        add(release, more, tmp_path / "index")
    changed = replace(several[6], captions={"en": "another"}, metadata={})
    made = update(release, str(write(tmp_path / "c", [changed])), tmp_path / "index").gallery
    assert len(made.vectors) == count[9] - (count[7] - count[6]) + 1
    assert made.of == "captions"
    assert made.search(release, np.asarray(release.embed_texts(["another"])), 1)[0][0].captions == {"en": "another"}
    made = remove([several[0].key], tmp_path / "index").gallery
    assert len(made.vectors) == count[9] - (count[7] - count[6]) + 1 - count[1]
    vectors = vectors_of(made.files)[made.vectors.live_ids()]
    assert len(vectors) == len(made.vectors)


def test_the_commands_say_captions(
    model_folder: Path, said: Path, several: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    assert main([str(model_folder), str(said), str(out), "--of", "captions"]) == 0
    assert "64 captions, flat" in capsys.readouterr().out
    (tmp_path / "p.png").write_bytes(several[0].image)
    assert search([str(out), "--image", str(tmp_path / "p.png"), "-k", "64", "--html", str(tmp_path / "p.html")]) == 0
    assert "a shape on white" in capsys.readouterr().out
    assert "a shape on white" in (tmp_path / "p.html").read_text()
