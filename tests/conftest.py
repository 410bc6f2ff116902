"""What tests of several rooms share."""

from __future__ import annotations

import pytest

from benchmarks.faults.kills import damaged_copy


@pytest.fixture(scope="session")
def damaged_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a copy of the bundled validation shards in which every tenth picture is zeros."""
    return str(damaged_copy(tmp_path_factory.mktemp("damaged") / "val"))
