"""A shard set as a model sees it: its fields, and the same vectors whether pictures are kept or read again."""

from __future__ import annotations

import io
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.mark.parametrize("cache_bytes", [None, 0, 9 * 3 * 32 * 32, 1 << 30])
def test_kept_pictures_give_the_same_vectors(release: Release, shards: Path, cache_bytes: int | None) -> None:
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


def photos(folder: Path, count: int, samples: list[Sample], write: Callable[..., Path]) -> str:
    """Shards of pictures of 60 kB that do not compress."""
    noise = np.random.default_rng(0)
    some = []
    for number in range(count):
        out = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (140, 140, 3), dtype=np.uint8)).save(out, "png")
        some.append(replace(samples[0], key=f"{number:04d}", image=out.getvalue()))
    return str(write(folder, some, per_shard=100))


def test_memory_does_not_grow_with_the_pictures(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    """What evaluation holds of a dataset are its texts and vectors, not its pictures: here 30 MB of them."""
    spec = photos(tmp_path / "many", 500, samples, write)
    size = sum(file.stat().st_size for file in Path(spec).glob("*.tar"))
    tracemalloc.start()
    split = EmbeddedSplit(release, spec, bar=False)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 25e6
    assert len(split.samples) == 500
    assert kept < size / 20
    assert most < size / 2  # three blocks of one shard each
    assert not any(sample.image for sample in split.samples)


def test_pictures_that_cannot_be_decoded_are_counted_once_where_they_are_read_again(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    some = [replace(s, image=b"\x89PNG nothing") if i in (3, 9) else s for i, s in enumerate(samples)]
    kept = KeptSplit(str(write(tmp_path / "s", some)), release.transform, None)
    for _ in range(2):
        split = kept.embedded(release)
        assert [s.key for s in split.samples] == [s.key for i, s in enumerate(samples) if i not in (3, 9)]
        assert split.skipped.by_reason() == {"undecodable picture": 2}


def test_a_dataset_that_changes_under_an_evaluation_is_refused(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    kept = KeptSplit(str(write(tmp_path / "s", samples)), release.transform, None)
    shutil.rmtree(tmp_path / "s")
    write(tmp_path / "s", samples[1:])
    with pytest.raises(UserError, match="s changed while it was evaluated"):
        kept.embedded(release)
