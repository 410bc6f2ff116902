from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vlp.errors import UserError
from vlp.training.checkpoints.folder import Checkpoints
from vlp.training.checkpoints.identity import flat

IDENTITY = {"training.seed": 0}


def state(value: float, size: int = 10) -> dict[str, object]:
    return {"identity": IDENTITY, "weights": torch.full((size,), value)}


def test_the_newest_is_read_and_the_last_few_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.read(IDENTITY) is None
    for step in (5, 10, 100):
        checkpoints.write(step, state(step))
    assert [p.name for p in checkpoints.all()] == ["step-00000010.pt", "step-00000100.pt"]
    found = checkpoints.read(IDENTITY)
    assert found is not None
    assert found["weights"][0] == 100


def test_a_half_written_one_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.write(1, state(1))
    (tmp_path / ".step-00000002.pt.part").write_bytes(b"half")
    found = checkpoints.read(IDENTITY)
    assert found is not None
    assert found["weights"][0] == 1
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_one_is_refused_with_what_to_do(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    path = checkpoints.write(1, state(1, size=5000))
    whole = bytearray(path.read_bytes())
    if damage == "flip":
        whole[len(whole) // 2] ^= 0xFF
    path.write_bytes({"cut": whole[: len(whole) // 2], "flip": whole, "empty": b""}[damage])
    with pytest.raises(UserError, match=r"cannot be read .*; delete it to go on from the one before"):
        checkpoints.read(IDENTITY)


def test_another_run_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.write(1, state(1))
    with pytest.raises(UserError, match=r"there training.seed is 0, here it is 3; .*training.resume"):
        checkpoints.read({"training.seed": 3})


def test_tables_become_dotted_keys() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {"a.b": 1, "a.c.d": "[1, 2]", "e": "None"}


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_one_before(little_disk: Path) -> None:
    checkpoints = Checkpoints(little_disk / "c", keep=2)
    checkpoints.write(1, state(1))
    with pytest.raises(UserError, match=r"is full .* step-00000001.pt, is whole; free some space"):
        checkpoints.write(2, state(2, size=200_000))
    assert os.listdir(little_disk / "c") == ["step-00000001.pt"]
    found = checkpoints.read(IDENTITY)
    assert found is not None
    assert found["weights"][0] == 1
