"""A shard set as a model sees it: its fields, and the same vectors whether pictures are kept or read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit, KeptSplit
from vlp.errors import UserError
from vlp.models.release import Release
from vlp.pictures import Limits, decode


def test_vectors_stand_in_the_order_of_the_samples(release: Release, shards: Path, samples: list[Sample]) -> None:
    split = EmbeddedSplit(release, str(shards))
    assert [s.key for s in split.samples] == [s.key for s in samples]
    one_by_one = [np.asarray(release.embed_images([decode(s.image, Limits())]))[0] for s in samples]
    assert split.image == pytest.approx(np.stack(one_by_one), abs=1e-5)


@pytest.mark.parametrize("cache_bytes", [0, 9 * 3 * 32 * 32, 1 << 30])
def test_kept_pictures_give_the_same_vectors(release: Release, shards: Path, cache_bytes: int) -> None:
    kept, read = KeptSplit(str(shards), release.transform, cache_bytes), EmbeddedSplit(release, str(shards))
    for _ in range(2):
        split = kept.embedded(release)
        assert (split.image == read.image).all()
        assert [s.metadata for s in split.samples] == [s.metadata for s in read.samples]


def test_fields_and_languages_are_named(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    first = replace(samples[0], metadata={"tags": {"en": ["a", "b"]}, "notes": {"long": "x"}, "cls": 3, "n": 1.5})
    split = EmbeddedSplit(release, str(write(tmp_path / "s", [first, replace(samples[1], captions={"en": "x"})])))
    assert split.languages == ("en", "zh")  # the most frequent first
    assert split.fields == ("artist", "cls", "subgroup")
    assert split.text_fields == ("artist", "notes.long", "subgroup", "tags.en")


def test_pictures_that_nobody_can_decode_are_no_split(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = str(write(tmp_path / "s", [replace(s, image=b"\x89PNG nothing") for s in samples]))
    with pytest.raises(UserError, match="no readable picture"):
        EmbeddedSplit(release, folder)
    with pytest.raises(UserError, match="no readable picture"):
        KeptSplit(folder, release.transform, 0).embedded(release)


def test_every_sample_has_a_key_of_its_own(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    """Keys are unique within a shard; two shards may share one."""
    split = EmbeddedSplit(
        release, str(write(tmp_path / "s", [samples[0], replace(samples[1], key=samples[0].key)], per_shard=1))
    )
    assert split.keys == (samples[0].key, f"{samples[0].key}#2")
