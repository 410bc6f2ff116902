"""What tests of several rooms share."""

from __future__ import annotations

import shutil

import pytest

from data_pipelines.remote.fetch import LocalFile
from data_pipelines.shards.shard_set import BUNDLED
from data_pipelines.shards.tar_index import build


@pytest.fixture(scope="session")
def damaged_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a copy of the bundled validation shards in which every tenth picture is zeros."""
    folder = tmp_path_factory.mktemp("damaged") / "val"
    shutil.copytree(BUNDLED / "emoji" / "val", folder)
    for path in folder.glob("*.tar"):
        data = bytearray(path.read_bytes())
        for offset, size in build(LocalFile(str(path))).spans[::10, 0].tolist():
            data[offset : offset + size] = bytes(size)
        path.write_bytes(data)
    return str(folder)
