"""Runs in processes of their own: two ranks, signals, and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "tiny_run.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(folder: Path, *flags: str, launcher: list[str] | None = None) -> subprocess.Popen[str]:
    command = [*(launcher or [sys.executable]), str(SCRIPT), str(folder), *flags]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    out, errors = process.communicate(timeout=200)
    assert process.returncode == status, out + errors
    return errors


def wait_for_step(folder: Path, step: int) -> None:
    path, end = folder / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < end:
        if path.is_file() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "final.pt", weights_only=True)
    return found


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("chunk", ["0", "3"], ids=["whole", "cached"])
def test_two_ranks_train_as_one_process_does(tmp_path: Path, chunk: str) -> None:
    """Through DDP and the sharded loss: the gradients of every step, hence the weights after six."""
    flags = ["--plain", "--steps", "6", "--chunk", chunk]
    both = run(tmp_path / "two", *flags, launcher=RANKS)
    finish(run(tmp_path / "one", *flags))
    finish(both)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    logged = [
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("one", "two")
    ]
    for a, b in zip(*logged, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-4)
        assert b["scale"] == pytest.approx(a["scale"], rel=1e-5)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_ends_a_run_with_a_checkpoint_and_a_line(tmp_path: Path, signum: signal.Signals) -> None:
    process = run(tmp_path, "--steps", "500", "--pause", "0.05")
    wait_for_step(tmp_path, 3)
    process.send_signal(signum)
    errors = finish(process, 128 + signum)
    assert "interrupted after step" in errors
    assert "give the same command again to go on" in errors
    assert "Traceback" not in errors
    done = steps(tmp_path)[-1]
    assert (tmp_path / "checkpoints" / f"step-{done:08d}.pt").is_file()


def test_a_signal_to_one_rank_ends_both_with_one_checkpoint(tmp_path: Path) -> None:
    process = run(tmp_path, "--steps", "500", "--pause", "0.05", launcher=RANKS)
    wait_for_step(tmp_path, 3)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(ranks[-1]), signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    assert process.returncode
    assert errors.count("interrupted after step") == 1
    done = steps(tmp_path)[-1]
    assert (tmp_path / "checkpoints" / f"step-{done:08d}.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--chunk", "4"]], ids=["whole", "cached"])
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path: Path, flags: list[str]) -> None:
    flags = ["--steps", "60", *flags]
    finish(run(tmp_path / "whole", *flags))
    for step in (5, 17, 18, 41):
        process = run(tmp_path / "killed", "--pause", "0.02", *flags)
        wait_for_step(tmp_path / "killed", step)
        process.kill()
        process.communicate()
    finish(run(tmp_path / "killed", *flags))
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert steps(tmp_path / "killed") == list(range(1, 61))


@pytest.mark.slow
def test_two_ranks_resume_to_the_same_weights(tmp_path: Path) -> None:
    finish(run(tmp_path / "whole", "--steps", "40", launcher=RANKS))
    process = run(tmp_path / "killed", "--steps", "40", "--pause", "0.03", launcher=RANKS)
    wait_for_step(tmp_path / "killed", 12)
    process.terminate()
    process.communicate(timeout=200)
    finish(run(tmp_path / "killed", "--steps", "40", launcher=RANKS))
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert steps(tmp_path / "killed") == list(range(1, 41))
