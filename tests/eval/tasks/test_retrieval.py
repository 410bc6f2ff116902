"""Retrieval, against a brute-force count over the same embeddings."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.commands.build import build
from data_pipelines.sample import Sample
from data_pipelines.sources.coco_captions import CocoCaptions
from eval.embeddings.split import EmbeddedSplit
from eval.tasks import retrieval as module
from eval.tasks.retrieval import Captions, Retrieval
from vlp.errors import UserError
from vlp.models.release import Release


@pytest.fixture(scope="module")
def split(release: Release, shards: Path) -> EmbeddedSplit:
    return EmbeddedSplit(release, str(shards))


def test_docstring_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_recall_equals_a_count_by_hand(split: EmbeddedSplit) -> None:
    found = Retrieval(ks=(1, 3)).measure(split)
    for language in ("en", "zh"):
        own = [sample.captions[language] for sample in split.samples]
        texts = sorted(set(own))
        scores = split.image @ np.asarray(split.release.embed_texts(texts)).T
        for k in (1, 3):
            to_text = [own[i] in [texts[t] for t in np.argsort(-scores[i])[:k]] for i in range(len(own))]
            to_image = [any(own[i] == texts[t] for i in np.argsort(-scores[:, t])[:k]) for t in range(len(texts))]
            assert found[f"{language}/image_to_text/recall@{k}"].value == pytest.approx(np.mean(to_text))
            assert found[f"{language}/text_to_image/recall@{k}"].value == pytest.approx(np.mean(to_image))


def test_conditions_of_a_measurement(split: EmbeddedSplit) -> None:
    found = Retrieval().measure(split)
    to_text, to_image = found["en/image_to_text/recall@1"], found["en/text_to_image/recall@1"]
    assert (to_text.queries, to_text.candidates) == (24, 12)  # two pictures of each of twelve captions
    assert (to_image.queries, to_image.candidates) == (12, 24)
    assert to_text.chance == pytest.approx(1 / 12)
    assert to_image.chance == pytest.approx(2 / 24)
    for measured in found.values():
        assert measured.interval[0] <= measured.value <= measured.interval[1]


def test_a_task_gives_the_values_of_its_measurements(release: Release, shards: Path, split: EmbeddedSplit) -> None:
    task = Retrieval(data=str(shards), languages=("zh",))
    values = task(release)
    assert values == {name: m.value for name, m in task.measure(split).items()}
    assert task.primary in values


def test_every_query_has_a_value_and_a_key(split: EmbeddedSplit) -> None:
    found = Retrieval().measure(split)
    keys = [sample.key for sample in split.samples]
    texts = list(dict.fromkeys(sample.captions["en"] for sample in split.samples))
    for way, expected in (("image_to_text", keys), ("text_to_image", texts)):
        measured = found[f"en/{way}/recall@1"]
        assert list(measured.queries_by) == expected
        assert measured.per_query.mean() == measured.value


def test_pictures_without_a_caption_in_the_language_take_no_part(split: EmbeddedSplit) -> None:
    captions = Captions.gather([[], ["b"], [], ["a", "b"]])
    assert captions == Captions(("b", "a"), (1, 3, 3), (0, 1, 0))
    with pytest.raises(UserError, match='no captions in "fr"; it has texts in: en, zh, artist, subgroup'):
        Retrieval(languages=("fr",)).measure(split)


def test_five_captions_of_a_picture_all_take_part(release: Release, samples: list[Sample], tmp_path: Path) -> None:
    """As COCO and Flickr30k are used: any of its five captions answers a picture, and each of them is a query."""
    words = ("{}", "a {}", "one {} here", "drawing of a {}", "the {}")
    own = [[w.format(s.captions["en"]) for w in words] for s in samples[:12]]
    own[3][4] = own[2][4]  # two pictures share this caption
    rows = [{"image_id": p, "id": 12 * c + p, "caption": own[p][c]} for c in range(5) for p in range(12)]
    pictures = [{"id": p, "file_name": f"{p}.png"} for p in range(12)]
    (tmp_path / "captions.json").write_text(json.dumps({"images": pictures, "annotations": rows}))
    for p in range(12):
        (tmp_path / f"{p}.png").write_bytes(samples[p].image)
    build(CocoCaptions(tmp_path / "captions.json"), tmp_path / "shards")
    split = EmbeddedSplit(release, str(tmp_path / "shards"))
    assert split.languages == ("en",)
    assert [s.said("en") for s in split.samples] == own
    found = Retrieval(ks=(1, 5)).measure(split)
    texts = sorted({text for captions in own for text in captions})
    scores = split.image @ np.asarray(release.embed_texts(texts)).T
    for k in (1, 5):
        to_text = [any(texts[t] in own[p] for t in np.argsort(-scores[p])[:k]) for p in range(12)]
        to_image = [any(texts[t] in own[p] for p in np.argsort(-scores[:, t])[:k]) for t in range(59)]
        assert found[f"en/image_to_text/recall@{k}"].value == pytest.approx(np.mean(to_text))
        assert found[f"en/text_to_image/recall@{k}"].value == pytest.approx(np.mean(to_image))
    measured = found["en/image_to_text/recall@1"]
    assert (measured.queries, measured.candidates, measured.chance) == (12, 59, pytest.approx(5 / 59))
    assert found["en/text_to_image/recall@1"].queries == 59
