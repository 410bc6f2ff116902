"""A sample read for evaluation says the same as its record says in training, whatever the path."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines import sample as module
from data_pipelines.captions import texts_at
from data_pipelines.shards.open_shards import OpenShards
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet

WriteTar = Callable[..., object]
PATHS = (
    *("txt", "en", "zh", "fr", "captions.en", "tags.en", "tags.zh", "annotations.long", "annotations.by.ann"),
    *("caption", "nothing", "concept"),
)
RECORDS = {
    "several": (
        "the cat",
        {
            "captions": {"en": "a cat", "zh": "猫"},
            "all_captions": {"en": ["a cat", "one cat"]},
            "tags": {"en": ["pet", "", "animal"]},
            "concept": "cat",
        },
    ),
    "lists": ("a dog", {"captions": {"en": ["a dog", "one dog"], "fr": "un chien"}, "tags": {"zh": ["狗"]}}),
    "nested": ("a cow", {"captions": {"en": "a cow"}, "annotations": {"long": "a large cow", "by": {"ann": ["moo"]}}}),
    "img2dataset": ("a bird", {"caption": "a bird", "url": "x", "width": 3}),
    "top_level": ("an owl", {"en": "a grey owl", "zh": "猫头鹰"}),
    "only_txt": ("a fish", None),
    "no_txt": (None, {"captions": {"zh": "树"}, "annotations": {"long": "a tall tree"}}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_tar: WriteTar, picture: Callable[[int], bytes]) -> Path:
    folder = tmp_path_factory.mktemp("said")
    files: list[tuple[str, bytes]] = []
    for i, (key, (txt, record)) in enumerate(RECORDS.items()):
        files.append((f"{key}.png", picture(i)))
        files += [(f"{key}.txt", txt.encode())] if txt is not None else []
        files += [(f"{key}.json", json.dumps(record).encode())] if record is not None else []
    write_tar(folder / "a.tar", files)
    return folder


def test_docstring_examples() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("path", PATHS)
def test_evaluation_reads_what_training_reads(folder: Path, path: str) -> None:
    opened = OpenShards(ShardSet.open(str(folder)))
    for i, sample in enumerate(read_samples(ShardSet.open(str(folder)))):
        record = opened.sample(0, i).record
        if path != "txt" or "txt" in record:  # without a .txt the first caption stands for it
            assert sample.said(path) == texts_at(record, path), sample.key


def test_each_path_is_said_by_somebody(folder: Path) -> None:
    samples = {sample.key: sample for sample in read_samples(ShardSet.open(str(folder)))}
    assert samples["several"].said("txt") == ["the cat"]
    assert samples["several"].said("en") == ["a cat", "one cat"]
    assert samples["several"].said("tags.en") == ["pet", "animal"]
    assert samples["lists"].said("captions.en") == ["a dog", "one dog"]
    assert samples["nested"].said("annotations.by.ann") == ["moo"]
    assert samples["only_txt"].said("en") == samples["only_txt"].said("txt") == ["a fish"]
    assert samples["no_txt"].said("txt") == ["树"]


def test_a_txt_that_is_no_caption_stays_out_of_the_record(folder: Path) -> None:
    for sample in read_samples(ShardSet.open(str(folder))):
        assert "txt" not in sample.metadata
        assert sample.captions
