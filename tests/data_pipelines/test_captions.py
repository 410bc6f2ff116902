from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from data_pipelines.captions import choose_several, concept_id, first, normalised, texts_at


def choose(record: Mapping[str, Any], weights: Mapping[str, float], rng: random.Random) -> str | None:
    """One caption, None if the sample has none."""
    return next(iter(choose_several(record, weights, 1, rng)), None)


RECORD = {
    "txt": "a cat",
    "captions": {"en": "a cat", "zh": ["一只猫", "猫"]},
    "tags": {"en": ["pet", "animal", "", 3]},
    "concept": "cat",
}


def test_captions_are_drawn_by_weight() -> None:
    rng = random.Random(0)
    said = Counter(choose(RECORD, {"en": 0.4, "zh": 0.4, "tags.en": 0.2}, rng) for _ in range(4000))
    assert abs(said["a cat"] / 4000 - 0.4) < 0.03
    assert abs(said["一只猫"] / 4000 - 0.2) < 0.03
    assert set(said) == {"a cat", "一只猫", "猫", "pet", "animal", "pet, animal", "animal, pet"}


def test_all_captions_of_a_picture_are_said() -> None:
    record = {"captions": {"en": "one", "zh": "一"}, "all_captions": {"en": ["one", "two", " ", "three"], "fr": ["un"]}}
    assert texts_at(record, "en") == ["one", "two", "three"]
    assert texts_at(record, "zh") == ["一"]
    assert texts_at(record, "fr") == []  # a filter has taken this language out
    assert {choose(record, {"en": 1.0}, random.Random(n)) for n in range(30)} == {"one", "two", "three"}
    assert first(record) == "one"


def test_what_a_sample_lacks_leaves_its_weight_to_the_rest() -> None:
    assert choose(RECORD, {"fr": 9.0, "en": 0.1}, random.Random(0)) == "a cat"
    assert choose(RECORD, {"fr": 1.0}, random.Random(0)) is None
    assert choose({"txt": "  "}, {"txt": 1.0}, random.Random(0)) is None


def test_several_captions_are_of_different_paths_as_far_as_there_are_any() -> None:
    said = choose_several(RECORD, {"en": 1.0, "zh": 1.0}, 3, random.Random(0))
    assert len(said) == 3
    assert said[2] == said[0] != said[1]
    assert choose_several({}, {"en": 1.0}, 2, random.Random(0)) == ()


def test_paths_reach_any_text_of_the_record() -> None:
    assert texts_at(RECORD, "tags.en") == ["pet", "animal"]
    assert texts_at({"meta": {"alt": "x"}}, "meta.alt") == ["x"]
    assert texts_at({"captions": "not a table", "caption": "y"}, "caption") == ["y"]


def test_ids_follow_the_concept_else_the_caption() -> None:
    assert concept_id(RECORD, "concept") == concept_id({"concept": "cat", "txt": "other"}, "concept")
    assert concept_id({"txt": "A  Cat."}, "concept") == concept_id({"captions": {"en": "a cat"}}, "concept")
    assert concept_id({"txt": "a dog"}, "concept") != concept_id({"txt": "a cat"}, "concept")
    assert 0 <= concept_id(RECORD, "concept") < 2**63
    assert concept_id(RECORD, "concept") == 3979375269140722891  # pinned: ids must not change between versions


def test_normalised_captions_and_the_first_one() -> None:
    assert normalised("Ａ Red  BALL!") == "a red ball"
    assert first({"captions": {"zh": "球"}}) == "球"
    assert first({}) == ""


def test_captions_without_a_language_are_english() -> None:
    assert texts_at({"txt": "a dog"}, "en") == ["a dog"]
    assert texts_at({"txt": "a dog", "captions": {"zh": "狗"}}, "en") == []


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_several_captions_come_from_different_paths_until_there_are_no_more(count: int) -> None:
    record = {"captions": {"en": "dog", "zh": "狗", "de": "Hund"}}
    for seed in range(20):
        said = choose_several(record, {"en": 1.0, "zh": 2.0, "de": 0.5, "fr": 1.0}, count, random.Random(seed))
        assert len(said) == count
        assert len(set(said)) == min(count, 3)
    assert choose_several({}, {"en": 1.0}, count, random.Random(0)) == ()


def test_one_of_several_captions_is_drawn_by_its_weight() -> None:
    record = {"captions": {"en": "dog", "zh": "狗", "de": "Hund"}}
    rng = random.Random(0)
    drawn = [choose_several(record, {"en": 1.0, "zh": 2.0, "de": 1.0}, 1, rng)[0] for _ in range(4000)]
    assert abs(drawn.count("狗") / 4000 - 0.5) < 0.03
