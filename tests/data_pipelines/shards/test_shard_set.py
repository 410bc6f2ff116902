"""Which tars a specification means, and what the manifests say of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.shards import manifest
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.shards.shard_set import UNKNOWN, ShardSet
from vlp.errors import UserError

MakeShards = Callable[..., Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, make_shards: MakeShards) -> Path:
    return make_shards(tmp_path_factory.mktemp("sets"), (7, 30, 1, 13, 22))


def listed(folder: Path, *counts: int, **about: Any) -> Path:
    """A folder whose manifest lists tars of `counts` samples; the tars themselves are not looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = tuple(ShardRecord(f"{i:05d}.tar", n, 10 * n, f"{i:064x}") for i, n in enumerate(counts))
    for shard in shards:
        (folder / shard.file).touch()
    Manifest(folder.name, shards, about=about).write(folder)
    return folder


opened: Counter[str] = Counter()  # files opened since the last clear, by every test of this module
sys.addaudithook(lambda event, args: opened.update([str(args[0])]) if event == "open" else None)


@pytest.mark.parametrize(
    "spec, counts",
    [
        ("{a}", (3, 4)),
        ("{a}/manifest.json", (3, 4)),
        ("{a}/*.tar::{b}", (3, 4, 5)),
        ("{a}/{{00000..00001}}.tar", (3, 4)),
        ("{a}/00001.tar::{b}::{a}/00000.tar", (4, 5, 3)),
        ("{b}/00000.tar::{c}", (5, UNKNOWN)),
    ],
)
def test_each_manifest_is_read_once_and_goes_with_the_set(tmp_path: Path, spec: str, counts: tuple[int, ...]) -> None:
    places = {"a": listed(tmp_path / "a", 3, 4, profile="A"), "b": listed(tmp_path / "b", 5, profile="B")}
    (tmp_path / "c").mkdir()
    (tmp_path / "c/x.tar").touch()
    opened.clear()
    shards = ShardSet.open(spec.format(**places, c=tmp_path / "c"))
    read = {name: n for name, n in opened.items() if name.endswith(manifest.FILE)}
    assert set(read.values()) == {1}
    assert shards.counts == counts
    assert [one.name for one in shards.manifests] == [one["profile"].lower() for one in shards.about]
    assert len(shards.about) == len(read)
    for url, count, size, digest in zip(shards.urls, shards.counts, shards.bytes, shards.sha256, strict=True):
        assert Path(url).is_file()
        assert (size, len(digest)) == ((UNKNOWN, 0) if count == UNKNOWN else (10 * count, 64))


def test_tars_named_without_a_folder_have_their_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(tmp_path, 3, 4)
    monkeypatch.chdir(tmp_path)
    assert ShardSet.open("*.tar").counts == (3, 4)
    assert ShardSet.open("00001.tar").counts == (4,)
    assert ShardSet.open(".").counts == (3, 4)


def test_specifications(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    names = [str(folder / f"{i:05d}.tar") for i in range(5)]
    assert ShardSet.open(str(folder)).urls == tuple(names)
    assert ShardSet.open(f"{folder}/*.tar").urls == tuple(names)
    assert ShardSet.open(f"{folder}/{{00000..00002}}.tar").urls == tuple(names[:3])
    assert ShardSet.open(f"{folder}/00004.tar::{folder}/{{00000..00001}}.tar").urls == (names[4], names[0], names[1])
    for wrong in ("", "/nowhere", f"{folder}/{{00003..00009}}.tar", f"{tmp_path}", "pipe:cat x.tar", "bundled:nothing"):
        with pytest.raises(UserError):
            ShardSet.open(wrong)
    (tmp_path / "manifest.json").write_text(
        json.dumps(
            {
                "format": "vlp-shards-1",
                "shards": [{"file": "../../x.tar", "samples": 1, "bytes": 1, "sha256": ""}],
            }
        )
    )
    with pytest.raises(UserError, match="outside its folder"):
        ShardSet.open(str(tmp_path))
