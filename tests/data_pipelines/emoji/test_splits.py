"""What each split asks of a model is said once, and stands in the manifests that are given with vlp."""

from __future__ import annotations

import json

import pytest

from data_pipelines.emoji.splits import ASKS, SPLITS
from data_pipelines.shards.shard_set import BUNDLED


@pytest.mark.parametrize("split", SPLITS)
def test_the_bundled_manifest_says_it(split: str) -> None:
    about = json.loads((BUNDLED / "emoji" / split / "manifest.json").read_text())["about"]
    assert about["asks"] == ASKS[split]
    assert ASKS[split].endswith(".")
