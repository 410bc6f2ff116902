"""Runs in processes of their own: two ranks, signals, and kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch

from vlp.training.interruption import TRY_AGAIN

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).parent / "tiny_run.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(folder: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(folder), *flags]
    environment = {**ENVIRONMENT, **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_two(folder: Path, *flags: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    place["LOCAL_WORLD_SIZE"] = "2"
    return [start(folder, *flags, RANK=r, LOCAL_RANK=r, **place) for r in "01"]


def finish(*processes: subprocess.Popen[str], status: int = 0) -> str:
    ends = [p.communicate(timeout=250) for p in processes]
    assert [p.returncode for p in processes] == [status] * len(processes), ends
    return "".join(errors for _, errors in ends)


def wait_for_step(folder: Path, step: int) -> None:
    path, end = folder / "metrics.jsonl", time.monotonic() + 200
    while time.monotonic() < end:
        if path.is_file() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    final: dict[str, torch.Tensor] = torch.load(folder / "final.pt", weights_only=True)
    return final


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in rows(folder)]


def test_two_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    """Through DDP and the sharded loss, whole and cached: loss and gradient of six steps, and the weights after."""
    flags = ["--plain", "--steps", "6", "--chunk", "0", "3"]
    both = start_two(tmp_path / "two", *flags)
    tiny_run.main([str(tmp_path / "one"), *flags])
    finish(*both)
    for chunk in "03":
        one, two = tmp_path / "one" / chunk, tmp_path / "two" / chunk
        for a, b in zip(rows(one), rows(two), strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
            assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-4)
            assert b["scale"] == pytest.approx(a["scale"], rel=1e-5)
        torch.testing.assert_close(weights(two), weights(one), rtol=1e-3, atol=2e-5)


def test_two_ranks_share_batch_norms_in_bfloat16(tmp_path: Path) -> None:
    finish(*start_two(tmp_path, "--steps", "3", "--precision", "bf16"))
    assert steps(tmp_path / "0") == [1, 2, 3]


def test_ctrl_c_ends_a_run_with_a_checkpoint_and_a_line(tmp_path: Path) -> None:
    process = start(tmp_path, "--steps", "500", "--pause", "0.05")
    wait_for_step(tmp_path / "0", 3)
    process.send_signal(signal.SIGINT)
    errors = finish(process, status=128 + signal.SIGINT)
    assert "interrupted after step" in errors
    assert "give the same command again to go on" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "0" / "checkpoints" / f"step-{steps(tmp_path / '0')[-1]:08d}").is_dir()


def test_sigterm_to_one_rank_ends_both_with_one_checkpoint(tmp_path: Path) -> None:
    processes = start_two(tmp_path, "--steps", "500", "--pause", "0.05")
    wait_for_step(tmp_path / "0", 3)
    processes[1].terminate()
    errors = finish(*processes, status=TRY_AGAIN)
    assert errors.count("interrupted after step") == 1
    assert (tmp_path / "0" / "checkpoints" / f"step-{steps(tmp_path / '0')[-1]:08d}").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    "chunk, more", [("0", ()), ("4", ()), ("4", ("--teacher", "0.9"))], ids=["whole", "cached", "taught"]
)
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(
    tmp_path: Path, chunk: str, more: tuple[str, ...]
) -> None:
    flags = ["--steps", "60", "--chunk", chunk, *more]
    finish(start(tmp_path / "whole", *flags))
    for step in (5, 17, 41):
        process = start(tmp_path / "killed", "--pause", "0.02", *flags)
        wait_for_step(tmp_path / "killed" / chunk, step)
        process.kill()
        process.communicate()
    finish(start(tmp_path / "killed", *flags))
    whole, killed = tmp_path / "whole" / chunk, tmp_path / "killed" / chunk
    a, b = weights(whole), weights(killed)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert steps(killed) == list(range(1, 61))


@pytest.mark.slow
def test_a_run_killed_while_checkpoints_are_written_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Eight times, at a moment when a checkpoint is half there."""
    flags = ["--steps", "60"]
    finish(start(tmp_path / "whole", *flags))
    saved, half = tmp_path / "killed" / "0" / "checkpoints", 0
    for kill in range(8):
        process = start(tmp_path / "killed", *flags)
        wait_for_step(tmp_path / "killed" / "0", kill * 6 + 2)
        end = time.monotonic() + 100
        while not list(saved.glob("*.partial")):
            assert time.monotonic() < end
        process.kill()
        process.communicate()
        half += bool(list(saved.glob("*.partial")))
    assert half >= 4
    finish(start(tmp_path / "killed", *flags))
    a, b = weights(tmp_path / "whole" / "0"), weights(tmp_path / "killed" / "0")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert steps(tmp_path / "killed" / "0") == list(range(1, 61))
    assert sorted(path.name for path in saved.iterdir()) == ["step-00000059", "step-00000060"]


@pytest.mark.slow
def test_two_ranks_go_back_together(tmp_path: Path) -> None:
    """One of them has bad pictures: both refuse, both go back, and both keep their rows of the batch."""
    errors = finish(*start_two(tmp_path, "--steps", "20", "--poison", "8", "11"))
    assert errors.count("the run goes back to step 7 and on with the data after these 3 batches") == 1
    assert steps(tmp_path / "0") == list(range(1, 21))
    kept = {path.name for path in (tmp_path / "0" / "refused").iterdir()}
    assert {"batch-00000010.json", "batch-00000010.rank-0.safetensors", "batch-00000010.rank-1.safetensors"} <= kept
    assert len(json.loads((tmp_path / "0" / "refused" / "batch-00000010.json").read_text())["keys"]) == 16


@pytest.mark.slow
def test_two_ranks_resume_to_the_same_weights(tmp_path: Path) -> None:
    finish(*start_two(tmp_path / "whole", "--steps", "40"))
    processes = start_two(tmp_path / "parts", "--steps", "40", "--pause", "0.03")
    wait_for_step(tmp_path / "parts" / "0", 12)
    processes[0].terminate()
    finish(*processes, status=TRY_AGAIN)
    finish(*start_two(tmp_path / "parts", "--steps", "40"))
    a, b = weights(tmp_path / "whole" / "0"), weights(tmp_path / "parts" / "0")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert steps(tmp_path / "parts" / "0") == list(range(1, 41))
