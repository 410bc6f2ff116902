from __future__ import annotations

import json
import os
import pickle
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vlp.distributed.tensor_parts import Table
from vlp.errors import UserError
from vlp.training.checkpoints.folder import Checkpoints, Keep, Saved
from vlp.training.checkpoints.identity import flat, refuse_difference
from vlp.training.checkpoints.manifest import digest
from vlp.training.checkpoints.place import Folder

IDENTITY = {"training.seed": 0}


def opened(folder: Path, **keep: Any) -> Checkpoints:
    return Checkpoints(Folder(folder), Keep(**keep))


def write(checkpoints: Checkpoints, value: int, size: int = 10, **how: Any) -> str:
    tensors = {"weights": torch.full((size,), float(value)), "step": torch.tensor(value)}
    name = checkpoints.write(value, tensors, {"value": value}, **{"identity": IDENTITY, **how})
    checkpoints.wait()
    return name


def room(table: Table) -> Mapping[str, Tensor]:
    return {name: torch.zeros(row["shape"], dtype=getattr(torch, row["dtype"])) for name, row in table.items()}


def read(checkpoints: Checkpoints, identity: Mapping[str, Any] = IDENTITY, **how: Any) -> Saved:
    saved = checkpoints.read(identity, room, **how)
    assert saved is not None
    assert saved.tensors["weights"].unique().tolist() == [saved.plain["value"]]
    assert saved.tensors["step"] == saved.plain["value"]
    return saved


def test_the_newest_is_read_and_the_last_few_are_kept(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path / "c")
    assert checkpoints.read(IDENTITY, room) is None
    for step in (5, 10, 100):
        write(checkpoints, step)
    assert checkpoints.all() == ["step-00000010", "step-00000100"]
    assert read(checkpoints).plain["value"] == 100
    assert sorted(os.listdir(tmp_path / "c")) == checkpoints.all()


def test_every_nth_and_the_best_are_kept(tmp_path: Path) -> None:
    keep = {"last": 1, "every": 4, "best": "val/recall"}
    recall = {2: 0.5, 3: 0.9, 6: 0.7, 7: 0.8}
    checkpoints = opened(tmp_path, **keep)
    for step in range(1, 8):
        better = checkpoints.better({"val/recall": recall[step]}) if step in recall else False
        write(checkpoints, step, metrics={"val/recall": recall[step]} if step in recall else {})
        assert better == (step in (2, 3))
    assert checkpoints.all() == ["step-00000003", "step-00000004", "step-00000007"]
    again = opened(tmp_path, **keep)  # another process knows the best by its manifest
    assert read(again, start="best").name == "step-00000003"
    assert not again.better({"val/recall": 0.85})
    again.set_aside()
    assert again.all() == ["step-00000003"]


def test_where_less_is_better(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path, last=1, best="-val/loss")
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        write(checkpoints, step, metrics={"val/loss": loss})
    assert checkpoints.all() == ["step-00000002", "step-00000003"]


def test_a_metric_that_is_not_measured_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'training.keep_best is "val/recal", but .* did you mean "val/recall"'):
        opened(tmp_path, best="val/recal").better({"val/recall": 1.0})
    with pytest.raises(UserError, match=r"resume_from is best, but no checkpoint in .* was kept as the best"):
        opened(tmp_path).read(IDENTITY, room, start="best")


def test_what_is_written_is_what_was_there_when_it_began(tmp_path: Path) -> None:
    """Training goes on at once, and changes the tensors."""
    checkpoints = opened(tmp_path)
    weights = torch.zeros(300_000)
    for step in range(1, 20):
        weights.fill_(step)
        checkpoints.write(step, {"weights": weights, "step": torch.tensor(step)}, {"value": step}, identity=IDENTITY)
        weights.fill_(-1.0)
    checkpoints.wait()
    assert read(checkpoints).plain["value"] == 19


def test_a_half_written_one_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    write(checkpoints, 1)
    (tmp_path / "step-00000002.partial").mkdir()
    (tmp_path / "step-00000002.partial" / "rank-00000.safetensors").write_bytes(b"half")
    (tmp_path / ".step-00000002.pt.part").write_bytes(b"half of the format before")
    assert read(checkpoints).plain["value"] == 1
    checkpoints.place.tidy()
    assert os.listdir(tmp_path) == ["step-00000001"]


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda p: os.truncate(p / "rank-00000.safetensors", 100), "has 100 bytes where"),
    "flipped": (lambda p: flipped(p / "rank-00000.safetensors"), "does not have its checksum"),
    "a missing part": (lambda p: (p / "rank-00000.safetensors").unlink(), "rank-00000.safetensors is missing"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
    "an empty manifest": (lambda p: (p / "manifest.json").write_bytes(b""), "manifest.json cannot be read"),
    "an altered manifest": (
        lambda p: (p / "manifest.json").write_text(
            (p / "manifest.json").read_text().replace('"value": 2', '"value": 3')
        ),
        "manifest.json does not have its checksum",
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_of_a_damaged_one_the_one_before_is_taken_saying_so(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = opened(tmp_path)
    write(checkpoints, 1, size=5000)
    damage, said = DAMAGES[how]
    damage(tmp_path / write(checkpoints, 2, size=5000))
    assert read(checkpoints).plain["value"] == 1
    errors = capsys.readouterr().err
    assert "the checkpoint step-00000002 is damaged" in errors
    assert said in errors
    checkpoints.set_aside()
    assert checkpoints.all() == ["step-00000001"]
    assert (tmp_path / "step-00000002.aside").exists()  # to be looked at


def test_where_all_are_damaged_the_run_does_not_start_over_by_itself(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    for step in (1, 2):
        (tmp_path / write(checkpoints, step) / "rank-00000.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"none of the 2 checkpoints in .* can be read \(step-00000002: rank-0.*missing"
    ):
        checkpoints.read(IDENTITY, room)
    assert len(checkpoints.all()) == 2


def test_those_of_refused_steps_take_no_good_one_s_place(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    for step in (1, 2, 3):
        write(checkpoints, step)
    for step in (4, 5, 6):
        write(checkpoints, step, refusing=True)
    assert [name[5:13] for name in checkpoints.all()] == ["00000002", "00000003", "00000006"]
    assert read(checkpoints).plain["value"] == 6
    assert read(checkpoints, start="good").plain["value"] == 3
    checkpoints.set_aside()
    assert checkpoints.all() == ["step-00000002", "step-00000003"]
    write(checkpoints, 7)
    assert checkpoints.all() == ["step-00000003", "step-00000007"]


def test_a_good_one_may_go_on_with_another_rate_but_not_with_other_data(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    identity = {"training.optimizer.lr": 1.0, "training.optimizer.name": "adamw", "data.shards": "a"}
    write(checkpoints, 1, identity=identity)
    lower = {**identity, "training.optimizer.lr": 0.1}
    with pytest.raises(UserError, match=r"training.optimizer.lr"):
        read(checkpoints, lower)
    assert read(checkpoints, lower, start="good")
    for other in ({"training.optimizer.name": "lion"}, {"data.shards": "b"}):
        with pytest.raises(UserError, match=next(iter(other))):
            read(checkpoints, {**lower, **other}, start="good")


def test_a_newer_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    manifest = tmp_path / write(checkpoints, 1) / "manifest.json"
    body = json.loads(manifest.read_text())
    body["format"] = "vlp-checkpoint-4"
    del body["sha256"]
    manifest.write_text(json.dumps({**body, "sha256": digest(body)}))
    sentence = r"step-00000001 has the format 'vlp-checkpoint-4', but this version reads .*finish the run with"
    with pytest.raises(UserError, match=sentence):
        checkpoints.read(IDENTITY, room)


def test_another_run_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    write(checkpoints, 1)
    with pytest.raises(UserError, match=r"there training.seed is 0, here it is 3; .*training.no-resume"):
        read(checkpoints, {"training.seed": 3})


def test_a_setting_that_is_newer_than_the_checkpoint_counts_as_its_default() -> None:
    now = {"training.seed": 0, "training.new": "auto"}
    refuse_difference("c", {"training.seed": 0}, now, defaults={"training.new": "auto"})
    with pytest.raises(UserError, match=r"there training.new is off, here it is auto"):
        refuse_difference("c", {"training.seed": 0}, now, defaults={"training.new": "off"})


def test_nothing_of_a_checkpoint_runs(tmp_path: Path) -> None:
    """No file of one is read as a pickle, wherever a pickle is put."""
    checkpoints = opened(tmp_path)
    ran = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(ran),)

    for name in ("step-00000001", "step-00000002.pt"):
        if name.endswith(".pt"):
            torch.save({"format": "vlp-checkpoint-2", "identity": IDENTITY, "model": Runs()}, tmp_path / name)
            continue
        folder = tmp_path / write(checkpoints, 1)
        for file in ("rank-00000.safetensors", "manifest.json", ".metadata"):
            (folder / file).write_bytes(pickle.dumps(Runs()))
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        checkpoints.read(IDENTITY, room)
    assert not ran.exists()


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
    checkpoints = opened(little_disk / "c")
    write(checkpoints, 1)
    with pytest.raises(UserError, match=r"is full .* step-00000001, is whole; free some space"):
        write(checkpoints, 2, size=200_000)
    assert os.listdir(little_disk / "c") == ["step-00000001"]
    assert read(checkpoints).plain["value"] == 1


def test_what_went_wrong_in_the_background_is_raised_by_the_training(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path / "c")
    write(checkpoints, 1)
    (tmp_path / "c").rename(tmp_path / "d")
    (tmp_path / "c").write_text("a file where the folder was")
    checkpoints.write(2, {"weights": torch.zeros(1)}, {}, identity=IDENTITY)
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        _ = checkpoints.busy
    assert not checkpoints.busy  # said once
