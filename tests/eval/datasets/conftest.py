"""Real pictures of the bundled corpus, to make small datasets of in every layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from eval.datasets import Dataset

Read = Callable[..., list[Sample]]


@pytest.fixture(scope="session")
def drawn() -> list[Sample]:
    """Twelve samples of the bundled corpus."""
    return list(islice(read_samples(ShardSet.open("bundled:emoji/val")), 12))


@pytest.fixture(scope="session")
def read() -> Read:
    """All samples of a dataset; of one that is whole, twice: the order is the same at every call."""

    def samples(dataset: Dataset, *, skip_damaged: bool = False, skip: Ledger | None = None) -> list[Sample]:
        ledger = Ledger() if skip is None else skip
        blocks = list(dataset.read(ledger, skip_damaged=skip_damaged))
        assert all(0 < len(some) <= 256 for _, some in blocks)
        every = [sample for _, some in blocks for sample in some]
        assert [s for _, some in dataset.read(Ledger(), skip_damaged=skip_damaged) for s in some] == every
        assert len({sample.key for sample in every}) == len(every)
        return every

    return samples


def write_json(path: Path, tree: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def write_tree() -> Callable[[Path, Any], Path]:
    """Write a tree as JSON; folders above are made."""
    return write_json


@pytest.fixture(scope="session")
def write_pictures(drawn: list[Sample]) -> Callable[[Path, list[str]], None]:
    """Write the bundled pictures under these names, one after another; which picture has a name is the name's place."""

    def write(folder: Path, names: list[str]) -> None:
        for sample, name in zip(drawn, names, strict=False):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(sample.image)

    return write
