"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.faults.kills import damaged_copy


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Path]:
    """What can be made again is kept in a folder of the tests, not in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("VLP_CACHE", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def damaged_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a copy of the bundled validation shards in which every tenth picture is zeros."""
    return str(damaged_copy(tmp_path_factory.mktemp("damaged") / "val"))
