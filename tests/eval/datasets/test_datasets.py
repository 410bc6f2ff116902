"""What all datasets share: names of classes, counts, places."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from data_pipelines.ledger import Ledger
from eval import datasets
from eval.datasets import Dataset, Protocol
from eval.datasets.shards import Shards
from eval.embeddings.encode import data_sha256
from eval.embeddings.split import EmbeddedSplit
from vlp.errors import UserError
from vlp.models.release import Release


def test_docstring_examples() -> None:
    assert doctest.testmod(datasets).failed == 0


def test_a_shard_set_is_a_dataset(release: Release, shards: Path) -> None:
    dataset = Shards(root=str(shards), label="artist")
    split = EmbeddedSplit(release, dataset)
    assert (split.spec, split.dataset, split.protocol) == (str(shards), dataset, Protocol(label="artist"))
    assert dataset.sha256() == data_sha256(dataset.shards)
    assert (split.image == EmbeddedSplit(release, str(shards)).image).all()


def test_another_number_of_samples_is_refused(shards: Path) -> None:
    def read(count: int, **how: bool) -> int:
        return sum(len(some) for _, some in Shards(root=str(shards), count=count).read(Ledger(), **how))

    assert [read(count) for count in (24, 0, -1)] == [24, 24, 24]
    with pytest.raises(UserError, match=r"has 24 samples, but 25 are expected: get it again, or .*--skip-damaged"):
        read(25)
    assert read(25, skip_damaged=True) == 24


def test_a_relative_root_is_below_the_folder_that_is_given(tmp_path: Path) -> None:
    assert Dataset(root="inside").below(str(tmp_path)).root == str(tmp_path / "inside")
    assert Dataset(root="another").below(str(tmp_path)).root == str(tmp_path / "another")
    assert Dataset(root="/x").below(str(tmp_path)).root == "/x"
    assert Dataset(root="x").below("").root == "x"
    assert Shards(root="bundled:emoji/val").below(str(tmp_path)).root == "bundled:emoji/val"
