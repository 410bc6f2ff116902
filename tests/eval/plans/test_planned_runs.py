"""Whole runs with plans: the same on one rank and on two, through kill -9, and after a stop on another number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
FLAGS = (
    *(
        "demo",
        "--data.shards",
        "bundled:emoji/val",
        "--model.image.widths",
        "8",
        "16",
        "--model.image.depths",
        "1",
        "1",
    ),
    *("--model.width", "16", "--model.text.hidden", "32", "--model.bpe.vocab", "600", "--training.batch", "64"),
    *("--training.log-every", "1", "--training.no-tensorboard", "--training.precision", "fp64"),
    *("--training.samples", "2048", "--training.keep", "99", "--training.checkpoint-every", "0"),
    *("--plan.order.name", "neighbours", "--plan.order.nearest", "16"),
)
ONE = (sys.executable,)
TWO = (str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2")
pytestmark = pytest.mark.slow


def start(launcher: tuple[str, ...], out: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, "train.py", *FLAGS, "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def train(launcher: tuple[str, ...], out: Path) -> list[float]:
    done = start(launcher, out)
    said, _ = done.communicate(timeout=280)
    assert done.returncode == 0, said[-3000:]
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    out = tmp_path_factory.mktemp("one")
    return out, train(ONE, out)


def plans(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "plans").glob("*.plan"))


def test_two_ranks_plan_as_one_and_one_goes_on_in_the_middle_of_their_epoch(
    one: tuple[Path, list[float]], tmp_path: Path
) -> None:
    assert len(one[1]) == 32
    assert len(plans(one[0])) == 2  # 925 samples are 15 batches: of the second epoch, and of the third
    assert train(TWO, tmp_path) == pytest.approx(one[1], rel=1e-12)
    assert plans(tmp_path) == plans(one[0])
    for later in sorted((tmp_path / "checkpoints").iterdir())[20:]:
        shutil.rmtree(later)
    assert train(ONE, tmp_path) == pytest.approx(one[1], rel=1e-12)


def test_a_run_that_is_killed_while_it_plans_plans_the_same_again(
    one: tuple[Path, list[float]], tmp_path: Path
) -> None:
    process = start(ONE, tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "plans" / "scratch").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert plans(tmp_path) == []
    assert train(ONE, tmp_path) == one[1]
    assert plans(tmp_path) == plans(one[0])
    assert not (tmp_path / "plans" / "scratch").exists()
