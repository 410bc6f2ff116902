"""Captions that are another picture's on purpose: as many as were asked for, always the same, known afterwards."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipelines.captions import is_swapped
from data_pipelines.loading.loader import Loader
from data_pipelines.settings import Captions, Workers
from data_pipelines.stream import OpenSources, Stream
from vlp.errors import UserError
from vlp.models.image_transform import RandomCrop

WriteTar = Callable[[Path, Iterable[tuple[str, bytes]]], Path]
SEED, SHARE = 5, 0.3


def tokenizer(texts: list[str]) -> Tensor:
    return torch.tensor([[int(text) + 1] for text in texts], dtype=torch.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_tar: WriteTar, picture: Callable[[int], bytes]) -> Path:
    """120 samples in two shards, whose caption is their own number; three in a row are of one concept."""
    folder = tmp_path_factory.mktemp("swapped")
    for shard in range(2):
        files = []
        for n in range(60 * shard, 60 * shard + 60):
            record = json.dumps({"concept": f"c{n // 3}"}).encode()
            files += [(f"k{n}.png", picture(n)), (f"k{n}.txt", str(n).encode()), (f"k{n}.json", record)]
        write_tar(folder / f"{shard}.tar", files)
    return folder


def said(loader: Loader, batches: int) -> dict[int, set[int]]:
    """The number of each sample and every caption that was said of it; its picture is always its own."""
    texts: dict[int, set[int]] = {}
    for _, batch in zip(range(batches), loader, strict=False):
        assert batch.numbers is not None
        for number, text, image in zip(batch.numbers.tolist(), batch.text[:, 0].tolist(), batch.image, strict=True):
            assert int(image[0, 4, 4]) == number
            texts.setdefault(number, set()).add(text - 1)
    loader.close()
    return texts


def opened(stream: Stream) -> Loader:
    loader = stream.open(transform=RandomCrop(size=8), tokenizer=tokenizer, global_batch=12, seed=SEED)
    assert isinstance(loader, Loader)
    return loader


def test_a_share_says_what_another_sample_says_and_which_is_known(folder: Path) -> None:
    stream = Stream(shards=str(folder), captions=Captions(swapped=SHARE))
    sources = stream.sources()
    assert isinstance(sources, OpenSources)
    assert "ON PURPOSE, 30% of the pictures" in sources.note
    truth = sources.swapped(SHARE, SEED)
    assert truth.tolist() == [is_swapped(f"k{n}", SHARE, SEED) for n in range(120)]
    texts = said(opened(stream), 30)  # three epochs
    assert sorted(texts) == list(range(120))
    for number, every in texts.items():
        (one,) = every  # the same in every epoch
        assert (one != number) == truth[number]
        assert not truth[number] or (one // 60 == number // 60 and one // 3 != number // 3)
    for workers in (Workers(count=2, start_method="fork"), Workers(cache_bytes=1 << 20)):
        assert said(opened(replace(stream, workers=workers)), 20) == texts
    clean = Stream(shards=str(folder)).sources()
    assert clean.note == ""


def test_the_share_is_kept_and_each_seed_has_another() -> None:
    keys = [f"sample-{n}" for n in range(20_000)]
    for share in (0.0, 0.3, 1.0):
        assert np.mean([is_swapped(key, share, 0) for key in keys]) == pytest.approx(share, abs=0.01)
    both = np.mean([is_swapped(key, 0.3, 0) and is_swapped(key, 0.3, 1) for key in keys])
    assert both == pytest.approx(0.09, abs=0.01)


def test_a_pipeline_of_ones_own_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.captions\.swapped is 0\.3"):
        Stream(source="my.pipes:make", captions=Captions(swapped=0.3)).sources()


def drawn(picture: Any, rng: random.Random) -> Tensor:
    """The picture's own red, and a green of chance."""
    view = torch.zeros(3, 4, 4, dtype=torch.uint8)
    view[0], view[1] = picture.getpixel((0, 0))[0], rng.randrange(256)
    return view


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_views_are_drawn_one_by_one_and_alike_by_workers(folder: Path, cache: int) -> None:
    stream = Stream(shards=str(folder), views=3, workers=Workers(cache_bytes=cache))
    kinds = (stream, replace(stream, workers=Workers(count=2, start_method="fork", cache_bytes=cache)))
    one, many = (s.open(transform=drawn, tokenizer=tokenizer, global_batch=4, seed=SEED) for s in kinds)
    for _, a, b in zip(range(3), one, many, strict=False):
        assert a.image.shape == (4, 3, 3, 4, 4)
        assert torch.equal(a.image, b.image)
        assert a.numbers is not None
        assert a.image[:, :, 0, 0, 0].tolist() == [[number] * 3 for number in a.numbers.tolist()]
        assert len({*a.image[:, :, 1, 0, 0].flatten().tolist()}) > 6  # of twelve draws
    many.close()
