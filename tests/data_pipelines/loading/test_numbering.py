"""Numbers and weights of samples: the same sample has the same ones, however and wherever it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipelines.ledger import DropBudgetExceeded
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.numbering import Numbering
from data_pipelines.settings import Workers
from data_pipelines.stream import Stream
from vlp.losses.cyclip import CyCLIP
from vlp.losses.infonce import InfoNCE
from vlp.losses.multi_positive import MultiPositive
from vlp.models.image_transform import RandomCrop

WriteTar = Callable[[Path, Iterable[tuple[str, bytes]]], Path]
COUNTS = (7, 30, 1, 13, 22)  # 73 samples, whose keys are 0 to 72 in the order of the tars


def tokenizer(texts: list[str]) -> Tensor:
    return torch.tensor([[len(text)] for text in texts], dtype=torch.int64)


def opened(stream: Stream, *, size: int = 1, state: Any = None, batch: int = 12) -> list[Loader]:
    crop = RandomCrop(size=8)
    loaders = [
        stream.open(transform=crop, tokenizer=tokenizer, global_batch=batch, rank=r, size=size, state=state, seed=1)
        for r in range(size)
    ]
    assert all(isinstance(one, Loader) for one in loaders)
    return loaders  # type: ignore[return-value]


def numbers(loaders: list[Loader], batches: int) -> list[list[int]]:
    """Numbers of global batches, each of which is that of its key."""
    out = []
    for _ in range(batches):
        parts = [next(iter(loader)) for loader in loaders]
        out.append([int(n) for part in parts for n in part.numbers])  # type: ignore[union-attr]
        assert out[-1] == [int(key) for part in parts for key in part.keys]
        assert all(part.numbers is not None and part.numbers.dtype == torch.int64 for part in parts)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_shards: Callable[..., Path]) -> Path:
    return make_shards(tmp_path_factory.mktemp("numbered"), COUNTS, frozenset({3, 40}))


def test_numbers_are_the_places_of_samples_in_every_epoch_on_any_layout_and_after_a_stop(folder: Path) -> None:
    stream = Stream(shards=str(folder), drop_budget=1.0)
    (whole,) = opened(stream)
    assert whole.numbers == stream.sources().numbering.total == 73  # type: ignore[union-attr]
    want = numbers([whole], 14)  # two epochs and more
    assert {n for batch in want for n in batch} == set(range(73)) - {3, 40}
    three = opened(stream, size=3)
    assert numbers(three, 5) == want[:5]
    state = [loader.state_dict() for loader in three]
    assert numbers(opened(stream, size=2, state=state), 9) == want[5:]
    (workers,) = opened(replace(stream, workers=Workers(count=2, start_method="fork")))
    assert numbers([workers], 8) == want[:8]
    workers.close()


def test_a_shard_that_two_sources_have_is_numbered_once_whatever_the_weights(folder: Path) -> None:
    mixture = {f"{folder}/00003.tar": 3.0, str(folder): 1.0}
    (loader,) = opened(Stream(mixture=mixture, drop_budget=1.0))
    assert loader.numbers == 73
    sources = Stream(mixture={**mixture, str(folder): 9.0}).sources()
    numbering = sources.numbering  # type: ignore[union-attr]
    for _ in range(7):
        batch = next(iter(loader))
        assert batch.numbers is not None
        for key, number in zip(batch.keys, batch.numbers.tolist(), strict=True):
            source, shard, sample = numbering.place(number)
            assert sum(COUNTS[: [3][shard] if source == 0 else shard]) + sample == int(key)
            assert number == (int(key) - 38 if 38 <= int(key) < 51 else int(key) + (13 if int(key) < 38 else 0))


def test_every_number_has_one_place() -> None:
    rng = np.random.default_rng(0)
    urls = [[f"{rng.integers(0, 20)}.tar" for _ in range(8)] for _ in range(3)]
    counts = [[int(url.partition(".")[0]) % 4 for url in some] for some in urls]
    numbering = Numbering.of(urls, counts)
    assert numbering.total == sum(int(url.partition(".")[0]) % 4 for url in {url for some in urls for url in some})
    for number in range(numbering.total):
        assert numbering.number(*numbering.place(number)) == number
    seen: dict[tuple[str, int], int] = {}
    for source, some in enumerate(urls):
        for shard, url in enumerate(some):
            for sample in range(counts[source][shard]):
                number = numbering.number(source, shard, sample)
                assert seen.setdefault((url, sample), number) == number
    assert sorted(seen.values()) == list(range(numbering.total))
    for number in (-1, numbering.total):
        with pytest.raises(IndexError, match="no sample number"):
            numbering.place(number)


@pytest.fixture(scope="module")
def weighted(
    tmp_path_factory: pytest.TempPathFactory, write_tar: WriteTar, picture: Callable[[int], bytes]
) -> tuple[Path, dict[str, float]]:
    """Shards whose samples say what they count, and those that do: the others say nothing, or no such number."""
    folder = tmp_path_factory.mktemp("weighted")
    said = [0.5, 2, 0, None, "3", True, -1.0, float("nan"), float("inf"), 0.25]
    files = []
    for n, value in enumerate(said):
        record = {"scores": {"clip": value}} if value is not None else {}
        files += [(f"{n}.png", picture(n)), (f"{n}.txt", b"words"), (f"{n}.json", json.dumps(record).encode())]
    write_tar(folder / "00000.tar", files)
    return folder, {"0": 0.5, "1": 2.0, "2": 0.0, "9": 0.25}


def test_weights_are_numbers_of_the_record_and_what_has_none_is_a_counted_loss(
    weighted: tuple[Path, dict[str, float]],
) -> None:
    folder, expected = weighted
    stream = Stream(shards=str(folder), weights="scores.clip", drop_budget=1.0)
    for workers in (Workers(), Workers(count=2, start_method="fork")):
        (loader,) = opened(replace(stream, workers=workers), batch=4)
        seen: dict[str, float] = {}
        for _, batch in zip(range(4), loader, strict=False):
            assert batch.weights is not None
            assert batch.weights.dtype == torch.float32
            seen |= dict(zip(batch.keys, batch.weights.tolist(), strict=True))
        loader.close()
        assert seen == expected
        assert loader.ledger.by_reason().keys() == {"missing weight"}
    assert next(iter(opened(replace(stream, weights=""), batch=4)[0])).weights is None
    with pytest.raises(DropBudgetExceeded, match="missing weight"):
        next(iter(opened(replace(stream, weights="score", drop_budget=0.1), batch=4)[0]))


def test_what_an_objective_needs_and_the_stream_lacks_is_said() -> None:
    assert CyCLIP(base=MultiPositive()).needed == ("ids",)
    assert InfoNCE().needed == ()
    plain = Stream(shards="somewhere")
    assert plain.lacks("ids") == ""
    assert plain.lacks("guide") == ""
    assert "data.ids is empty" in replace(plain, ids="").lacks("ids")
    assert "read them from data.shards" in Stream(source="my.pipes:make").lacks("numbers")
    assert "data.weights is empty" in plain.lacks("weights")
