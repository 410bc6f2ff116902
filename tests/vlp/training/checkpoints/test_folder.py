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
    newest = checkpoints.read(IDENTITY)
    assert newest is not None
    assert newest["weights"][0] == 100


def test_a_half_written_one_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.write(1, state(1))
    (tmp_path / ".step-00000002.pt.part").write_bytes(b"half")
    newest = checkpoints.read(IDENTITY)
    assert newest is not None
    assert newest["weights"][0] == 1
    checkpoints.set_aside()
    assert not list(tmp_path.glob(".*"))


def damage(path: Path, how: str) -> None:
    whole = bytearray(path.read_bytes())
    if how == "flip":
        whole[len(whole) // 2] ^= 0xFF
    path.write_bytes({"cut": whole[: len(whole) // 2], "flip": whole, "empty": b""}[how])


@pytest.mark.parametrize("how", ["cut", "flip", "empty"])
def test_of_a_damaged_one_the_one_before_is_taken_saying_so(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.write(1, state(1, size=5000))
    damage(checkpoints.write(2, state(2, size=5000)), how)
    read = checkpoints.read(IDENTITY)
    assert read is not None
    assert read["weights"][0] == 1
    assert "step-00000002.pt cannot be read" in capsys.readouterr().err
    checkpoints.set_aside()
    assert [p.name for p in checkpoints.all()] == ["step-00000001.pt"]
    assert (tmp_path / "step-00000002.pt.aside").exists()  # to be looked at


def test_where_all_are_damaged_the_run_does_not_start_over_by_itself(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        damage(checkpoints.write(step, state(step)), "cut")
    with pytest.raises(UserError, match=r"none of the 2 checkpoints in .* can be read"):
        checkpoints.read(IDENTITY)
    assert len(checkpoints.all()) == 2


def test_those_of_refused_steps_take_no_good_one_s_place(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.write(step, state(step))
    for step in (4, 5, 6):
        checkpoints.write(step, state(step), refusing=True)
    assert [p.name[5:13] for p in checkpoints.all()] == ["00000002", "00000003", "00000006"]
    newest = checkpoints.read(IDENTITY)
    assert newest is not None
    assert newest["weights"][0] == 6
    good = checkpoints.read(IDENTITY, start="good")
    assert good is not None
    assert good["weights"][0] == 3
    checkpoints.set_aside()
    assert [p.name for p in checkpoints.all()] == ["step-00000002.pt", "step-00000003.pt"]
    checkpoints.write(7, state(7))
    assert [p.name for p in checkpoints.all()] == ["step-00000003.pt", "step-00000007.pt"]


def test_a_good_one_may_go_on_with_another_rate_but_not_with_other_data(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    identity = {"training.optimizer.lr": 1.0, "training.optimizer.name": "adamw", "data.shards": "a"}
    checkpoints.write(1, {"identity": identity})
    lower = {**identity, "training.optimizer.lr": 0.1}
    with pytest.raises(UserError, match=r"training.optimizer.lr"):
        checkpoints.read(lower)
    assert checkpoints.read(lower, start="good") is not None
    for other in ({"training.optimizer.name": "lion"}, {"data.shards": "b"}):
        with pytest.raises(UserError, match=next(iter(other))):
            checkpoints.read({**lower, **other}, start="good")


def test_an_old_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    torch.save({"format": "vlp-checkpoint-1"}, tmp_path / "step-00000001.pt")
    with pytest.raises(UserError, match=r"has the format 'vlp-checkpoint-1', but this version reads .*finish the run"):
        Checkpoints(tmp_path, keep=2).read(IDENTITY)


def test_another_run_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.write(1, state(1))
    with pytest.raises(UserError, match=r"there training.seed is 0, here it is 3; .*training.no-resume"):
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
    newest = checkpoints.read(IDENTITY)
    assert newest is not None
    assert newest["weights"][0] == 1
