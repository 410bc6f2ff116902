"""Questions that are answered together are answered each by its own version, with its own weights and its own K."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.sample import Sample
from eval.index.flat import Flat
from eval.search.build import build_gallery
from eval.service.batching import BatchFailed, Part, Question, answered
from eval.service.current import Current, Version
from tests.eval.conftest import MODEL
from vlp.errors import UserError
from vlp.models import release as releases
from vlp.pictures import Limits, decode


@pytest.fixture(scope="module")
def versions(index: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """Two: the model of the second takes larger pictures, and gives vectors of another width."""
    config = replace(MODEL, image_size=48, width=24)
    tokenizer = config.tokenizer(["red circle", "gold square"])
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("larger")
    encoder = config.build(tokenizer.vocab).eval()
    releases.save(folder / "model", config=config, encoder=encoder, tokenizer=tokenizer, notes={})
    build_gallery(releases.load(folder / "model"), str(shards), folder / "index", kind=Flat())
    return [Current(index).version, Current(folder / "index").version]


def question(version: Version, sample: Sample, k: int, weight: float = 1.0) -> Question:
    pixels = version.release.transform(decode(sample.image, Limits()))
    text = Part(1.0, text=sample.captions["zh"])
    return Question(version, (text, Part(weight, pixels=pixels)), k)


def test_each_is_answered_as_if_it_were_alone(versions: list[Version], samples: list[Sample]) -> None:
    """A swap to a model of another picture size and width drops none of those that were prepared for the one before."""
    asked = [
        question(version, sample, 1 + i % 3, weight=0.5 + i)
        for i, sample in enumerate(samples[:6])
        for version in versions
    ]
    for one, together in zip(asked, answered(asked), strict=True):
        alone = answered([one])[0]
        assert not isinstance(alone, UserError)
        assert not isinstance(together, UserError)
        assert [hit.key for hit in together] == [hit.key for hit in alone]
        assert np.allclose([hit.score for hit in together], [hit.score for hit in alone], atol=1e-5)
        assert len(together) == one.k


def test_one_that_asks_nothing_fails_alone_and_a_version_that_fails_fails_alone(
    versions: list[Version], samples: list[Sample]
) -> None:
    first, second = versions
    nothing = Question(first, (Part(1.0, text="red"), Part(-1.0, text="red")), 3)
    broken = Question(second, (Part(1.0, pixels=torch.zeros(3, 5, 7, dtype=torch.uint8)),), 3)
    result = answered([nothing, question(first, samples[0], 3), broken, question(second, samples[0], 3)])
    assert isinstance(result[0], UserError)
    assert not isinstance(result[0], BatchFailed)
    assert "cancel each other" in str(result[0])
    assert not isinstance(result[1], UserError)
    assert [type(one) for one in result[2:]] == [BatchFailed] * 2
