"""A checkpoint of any number of ranks, sharded or not, is read by any other."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path
from typing import Any

import gloo_ranks
import numpy as np
import parts_cases
import pytest

from vlp.distributed import tensor_parts
from vlp.distributed.world import World


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], name)


def on(ranks: int, case: Any, folder: Path, kind: str, logs: Path) -> dict[str, Any]:
    """What rank 0 gave back; one rank is this process."""
    if ranks == 1:
        answer: dict[str, Any] = case(World.alone("cpu"), folder, kind)
        return answer
    logs.mkdir(exist_ok=True)
    every = gloo_ranks.run(ranks, case, folder, kind, folder=logs)
    return every[0]  # type: ignore[no-any-return]


def test_sharded_ranks_write_their_parts_and_one_process_reads_them(tmp_path: Path) -> None:
    then = on(2, parts_cases.write, tmp_path / "c", "fsdp2", tmp_path / "logs")
    sizes = [p.stat().st_size for p in sorted((tmp_path / "c" / "step-00000001").glob("rank-*"))]
    assert len(sizes) == 2
    assert max(sizes) < 1.3 * min(sizes)  # each writes about a half
    now = on(1, parts_cases.read, tmp_path / "c", "ddp", tmp_path)
    same(now, then)
    assert {name.partition(".")[0] for name in now} == {"model", "average", "optimizer"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("writers", "readers"),
    [
        ((1, "ddp"), (3, "fsdp2")),
        ((2, "ddp"), (1, "ddp")),
        ((2, "ddp"), (2, "fsdp2")),
        ((3, "fsdp2"), (2, "fsdp2")),
        ((2, "fsdp2"), (3, "ddp")),
    ],
)
def test_any_layout_is_read_by_any_other(tmp_path: Path, writers: tuple[int, str], readers: tuple[int, str]) -> None:
    (w, written), (r, wanted) = writers, readers
    then = on(w, parts_cases.write, tmp_path / "c", written, tmp_path / "w")
    same(on(r, parts_cases.read, tmp_path / "c", wanted, tmp_path / "r"), then)


@pytest.mark.slow
def test_damage_that_one_rank_sees_makes_all_take_the_one_before(tmp_path: Path) -> None:
    on(2, parts_cases.write, tmp_path / "c", "fsdp2", tmp_path / "w")
    shutil.copytree(tmp_path / "c" / "step-00000001", tmp_path / "c" / "step-00000002")
    (tmp_path / "logs").mkdir()
    case = parts_cases.read_where_one_rank_sees_damage
    assert gloo_ranks.run(2, case, tmp_path / "c", "fsdp2", folder=tmp_path / "logs") == ["step-00000001"] * 2


def test_examples() -> None:
    assert doctest.testmod(tensor_parts).failed == 0
