"""The one parser of manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.shards import manifest
from data_pipelines.shards.manifest import Manifest, ShardRecord, parse
from data_pipelines.shards.shard_set import BUNDLED, ShardSet
from vlp.errors import UserError

ROW = {"file": "00000.tar", "samples": 3, "bytes": 10, "sha256": "ab"}


def tree(**changes: Any) -> bytes:
    return json.dumps({"format": manifest.FORMAT, "shards": [ROW], **changes}).encode()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = Manifest("x", (ShardRecord("a/b.tar", 2, 9, "cd"),), {"too long": 2}, {"too long": ["q"]}, {"who": "me"})
    written.write(tmp_path)
    assert manifest.read(tmp_path) == written
    assert (tmp_path / manifest.FILE).read_text() == written.text()


def test_manifests_of_the_first_version_are_read_and_written_alike() -> None:
    for path in sorted(BUNDLED.rglob(manifest.FILE)):
        assert manifest.read(path.parent).text() == path.read_text()
        assert ShardSet.open(str(path.parent)).manifests == (manifest.read(path.parent),)


@pytest.mark.parametrize(
    "data, sentence",
    [
        (b"not json", "m.json is not a shard manifest"),
        (b"[]", "m.json is not a shard manifest"),
        (b"{}", "m.json is not a shard manifest"),
        (tree(format="vlp-shards-9"), 'm.json has format "vlp-shards-9", expected "vlp-shards-1"'),
        (tree(shards=[]), "m.json lists no shards"),
        (tree(shards=[{**ROW, "samples": "many"}]), "m.json is not a shard manifest"),
        (tree(shards=[{"file": "x.tar"}]), "m.json is not a shard manifest"),
        (tree(shards=[{**ROW, "file": "/etc/x.tar"}]), "which lies outside its folder"),
        (tree(shards=[{**ROW, "file": "a/../../x.tar"}]), "which lies outside its folder"),
    ],
)
def test_a_bad_manifest_is_refused_in_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse(data, where="m.json")
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_a_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no manifest\.json in"):
        manifest.read(tmp_path)
