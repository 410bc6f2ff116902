"""Writers of a served index are killed, versions come, and 64 clients notice nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.index_changes import World
from benchmarks.faults.index_kills import first_index
from benchmarks.search_serve import attack


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_writers_and_new_versions_drop_no_request_and_lose_nothing(model_folder: Path, tmp_path: Path) -> None:
    world = World.made(tmp_path / "world", model_folder)
    index, content = first_index(world)
    result = attack(index, world, content, kills=20, seconds=20, threads=1)
    assert result.asked.errors == []
    assert result.life.wrong == []
    assert result.life.kills == 20
    assert len(result.asked.seconds) > 64
    assert result.swaps >= 1
    assert result.end < result.early + 200  # MiB: an index of 80 pictures, some versions of it
