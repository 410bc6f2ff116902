"""The bundled shards can be made again, byte for byte, from the pinned packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.commands.build import build
from data_pipelines.emoji import packages
from data_pipelines.emoji.corpus import packages_of
from data_pipelines.shards.shard_set import BUNDLED
from data_pipelines.sources.emoji import Emoji
from vlp.errors import UserError


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_bundled_shards_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    try:
        for package in packages_of("bundled"):
            packages.folder(package.name, packages.default_cache())
    except UserError as error:
        pytest.skip(str(error))
    for done, part in zip(build(Emoji(), tmp_path / "emoji"), Emoji().parts(), strict=True):
        told = json.loads((BUNDLED / "emoji" / part / "manifest.json").read_text())
        assert [shard.sha256 for shard in done.shards] == [row["sha256"] for row in told["shards"]], part
