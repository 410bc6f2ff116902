"""Samples one after the other, as evaluation and embedding read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from data_pipelines.ledger import Ledger
from data_pipelines.shards.open_shards import OpenShards
from data_pipelines.shards.read_samples import read_samples, read_shard
from data_pipelines.shards.shard_set import ShardSet
from vlp.errors import UserError

MakeShards = Callable[..., Path]
WriteTar = Callable[[Path, Iterable[tuple[str, bytes]]], Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, make_shards: MakeShards) -> Path:
    return make_shards(tmp_path_factory.mktemp("healthy"), (7, 30, 1, 13, 22))


def test_read_samples_gives_each_sample_once_in_order(folder: Path, tmp_path: Path) -> None:
    samples = list(read_samples(ShardSet.open(str(folder))))
    assert [s.key for s in samples] == [f"{n:05d}" for n in range(73)]
    assert samples[5].captions == {"en": "en 5", "zh": "zh 5"}
    assert samples[5].metadata["concept"] == "c2"
    cut = tmp_path / "cut.tar"
    cut.write_bytes((folder / "00001.tar").read_bytes()[:20_000])
    with pytest.raises(UserError, match="cannot be delivered"):
        list(read_samples(ShardSet.open(str(cut))))
    ledger = Ledger()
    assert 0 < len(list(read_samples(ShardSet.open(str(cut)), skip=ledger))) < 30
    assert ledger.dropped >= 1


def test_one_shard_of_an_opened_set(folder: Path) -> None:
    opened = OpenShards(ShardSet.open(str(folder)))
    ledger = Ledger()
    parts = [[sample.key for sample in read_shard(opened, row, skip=ledger)] for row in range(5)]
    assert [len(part) for part in parts] == [7, 30, 1, 13, 22]
    assert [key for part in parts for key in part] == [sample.key for sample in read_samples(opened)]
    assert ledger.delivered == 73


def test_what_a_manifest_promises_and_a_tar_lacks_is_counted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes((folder / "00000.tar").read_bytes())
    rows = [{"file": f"0000{i}.tar", "samples": 9, "bytes": 1, "sha256": ""} for i in range(2)]
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "vlp-shards-1", "shards": rows}))
    ledger = Ledger()
    assert len(list(read_samples(ShardSet.open(str(tmp_path)), skip=ledger))) == 7
    assert ledger.by_reason() == {"unreadable shard": 9, "truncated tail": 2}
    with pytest.raises(UserError, match="2 samples cannot be delivered"):
        list(read_samples(ShardSet.open(str(tmp_path))))


def test_every_way_to_write_captions_is_read(
    tmp_path: Path, write_tar: WriteTar, picture: Callable[[int], bytes]
) -> None:
    """The .txt stays what it is, beside captions by language, several of them, and those of nested fields."""
    records = {
        "plain": (b"a dog", None),
        "named": (b"a cat", {"captions": {"en": "a cat", "fr": "un chat"}}),
        "several": (None, {"captions": {"en": ["one", "two"]}, "meta": {"alt": "x"}}),
        "field": (None, {"caption": "from the json", "tags": {"en": ["a", "b"]}}),
    }
    files = []
    for n, (key, (text, record)) in enumerate(records.items()):
        files.append((f"{key}.png", picture(n)))
        files += [(f"{key}.txt", text)] if text is not None else []
        files += [(f"{key}.json", json.dumps(record).encode())] if record is not None else []
    write_tar(tmp_path / "a.tar", files)
    plain, named, several, field = read_samples(ShardSet.open(str(tmp_path)))
    assert (plain.captions, plain.said("txt"), plain.said("en")) == ({"en": "a dog"}, ["a dog"], ["a dog"])
    assert (named.captions, named.said("txt")) == ({"en": "a cat", "fr": "un chat"}, ["a cat"])
    assert named.said("de") == []
    assert (several.captions, several.said("en"), several.said("meta.alt")) == ({"en": "one"}, ["one", "two"], ["x"])
    assert (field.captions, field.said("tags.en")) == ({"en": "from the json"}, ["a", "b"])
