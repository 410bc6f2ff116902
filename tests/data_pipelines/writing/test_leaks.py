"""The bundled splits ask what they say: no caption and no picture of a test is in train, read from the shards."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from PIL import Image

from data_pipelines.commands import verify
from data_pipelines.emoji.captions import caption_key
from data_pipelines.emoji.splits import HELD_OUT_FAMILY, SPLITS, alike_pairs
from data_pipelines.picture_hash import Fingerprint, fingerprint
from data_pipelines.sample import Sample
from data_pipelines.shards import manifest
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import BUNDLED, ShardSet

EMOJI = BUNDLED / "emoji"
pytestmark = pytest.mark.skipif(not (EMOJI / "train/manifest.json").exists(), reason="the bundled shards are not here")
GIVEN_ON = {"Apache-2.0", "CC-BY-4.0", "MIT", "public domain"}
MOST_DOWNLOAD = 20e6  # bytes


@dataclass(frozen=True)
class Pair:
    sample: Sample
    print: Fingerprint
    digest: str


@cache
def split(name: str) -> tuple[Pair, ...]:
    out = []
    for sample in read_samples(ShardSet.open(f"bundled:emoji/{name}")):
        pixels = np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB"))
        assert pixels.shape == (64, 64, 3)
        out.append(Pair(sample, fingerprint(pixels), hashlib.sha256(pixels.tobytes()).hexdigest()))
    return tuple(out)


def keys(name: str, language: str) -> set[str]:
    return {caption_key(p.sample.captions[language]) for p in split(name) if language in p.sample.captions}


def test_no_picture_of_another_split_is_in_train() -> None:
    pairs = [pair for name in SPLITS for pair in split(name)]
    home = [name for name in SPLITS for _ in split(name)]
    digests = {pair.digest for pair, name in zip(pairs, home, strict=True) if name == "train"}
    assert not [p.sample.key for p, name in zip(pairs, home, strict=True) if name != "train" and p.digest in digests]
    near = alike_pairs([pair.print for pair in pairs])
    crossing = [
        (pairs[a].sample.key, pairs[b].sample.key) for a, b in near if (home[a] == "train") != (home[b] == "train")
    ]
    assert not crossing


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_caption_of_an_unseen_concept_is_in_train(language: str) -> None:
    for name in ("val", "test_concept", "test_style_concept"):
        assert keys(name, language).isdisjoint(keys("train", language)), name
    assert keys("test_attr", "en").isdisjoint(keys("train", "en"))
    assert keys("val", language).isdisjoint(keys("test_concept", language) | keys("test_style_concept", language))


def test_styles_are_unseen_where_they_should_be() -> None:
    families = {name: {p.sample.metadata["family"] for p in split(name)} for name in SPLITS}
    for name in ("test_style", "test_style_concept"):
        assert families[name] == {HELD_OUT_FAMILY}
    for name in ("train", "val", "test_concept", "test_attr"):
        assert HELD_OUT_FAMILY not in families[name]


def test_style_asks_for_concepts_that_were_seen() -> None:
    seen = {p.sample.metadata["base"] for p in split("train") if "base" in p.sample.metadata}
    bases = [p.sample.metadata["base"] for p in split("test_style")]
    # Some emoji were drawn by the held-out artists alone; nearly all others must have been seen.
    assert np.mean([base in seen for base in bases]) > 0.95


def test_attributes_are_seen_apart_but_not_together() -> None:
    people = {p.sample.metadata["base"] for p in split("train") if "base" in p.sample.metadata}
    tones = {p.sample.metadata["tone"] for p in split("train") if "tone" in p.sample.metadata}
    together = {
        (p.sample.metadata["base"], p.sample.metadata["tone"]) for p in split("train") if "tone" in p.sample.metadata
    }
    for pair in split("test_attr"):
        base, tone = pair.sample.metadata["base"], pair.sample.metadata["tone"]
        assert base in people
        assert tone in tones
        assert (base, tone) not in together


def test_every_sample_is_whole_and_may_be_given_on() -> None:
    every: Counter[str] = Counter()
    for name in SPLITS:
        for pair in split(name):
            sample = pair.sample
            every[sample.key] += 1
            assert sample.captions["en"].strip()
            assert sample.metadata["license"] in GIVEN_ON
            assert sample.metadata["concept"] == caption_key(sample.captions["en"])
            assert sample.metadata["group"]
            assert sample.metadata["artist"]
    assert max(every.values()) == 1
    assert len(every) > 17_000


def test_the_shards_are_what_their_manifests_say_and_small_enough_to_clone() -> None:
    size = 0
    for name in SPLITS:
        assert not list(verify.problems(verify.Verify(str(EMOJI / name), pictures=False)))
        told = manifest.read(EMOJI / name)
        assert told.samples == len(split(name))
        assert told.about["profile"] == "bundled"
    for pair in (pair for name in SPLITS for pair in split(name)):
        size += len(pair.sample.image) + 250  # git compresses the rest of a sample below that
    assert size < MOST_DOWNLOAD


def test_most_samples_speak_chinese_too() -> None:
    for name in SPLITS:
        with_chinese = [p for p in split(name) if "zh" in p.sample.captions]
        assert len(with_chinese) > 0.8 * len(split(name)), name
