"""False captions in which one attribute is another, of the bundled corpus."""

from __future__ import annotations

import doctest

import pytest

from data_pipelines.attributes import TONES
from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from eval.datasets import attribute_swaps as module
from eval.datasets.attribute_swaps import AttributeSwaps, other_sex, other_tones


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [sample for _, some in AttributeSwaps().read(Ledger()) for sample in some]


def test_docstring_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_every_tone_is_swapped_for_the_four_others(samples: list[Sample]) -> None:
    toned = [sample for sample in samples if sample.metadata["category"] == "skin-tone"]
    assert len(toned) == 361  # all of test_attr
    for sample in toned:
        for language, names in (("en", list(TONES)), ("zh", list(TONES.values()))):
            own = names[list(TONES).index(sample.metadata["tone"])]
            false = sample.metadata["negatives"][language]
            assert len({sample.captions[language], *false}) == 5
            back = [text.replace(other, own) for text, other in zip(false, [n for n in names if n != own], strict=True)]
            assert set(back) == {sample.captions[language]}


def test_the_sex_is_swapped_where_one_is_named(samples: list[Sample]) -> None:
    sexed = [sample for sample in samples if sample.metadata["category"] == "sex"]
    assert len(sexed) > 150
    for sample in sexed:
        for language, false in sample.metadata["negatives"].items():
            assert len(false) == 1
            assert false[0] != sample.captions[language]
            assert other_sex(false[0], language) == [sample.captions[language]]


def test_keys_are_unique_and_the_count_repeats(samples: list[Sample]) -> None:
    assert len({sample.key for sample in samples}) == len(samples)
    assert AttributeSwaps().sha256() == AttributeSwaps().sha256() != ""


def test_captions_without_the_attribute_are_left_alone() -> None:
    assert other_tones("thumbs down", "dark skin tone") == []
    assert other_tones("a: dark skin tone, dark skin tone", "dark skin tone") == []
    assert other_sex("merman", "en") == other_sex("person", "en") == other_sex("小天使", "zh") == []
