"""train.py on damaged shards, killed -9 again and again: it goes on with the very next sample, on any layout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_pipelines.loading.position import merge_states
from vlp.training.checkpoints.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
BATCH, STEPS = 64, 48  # the shards hold 1,194 good pairs: two epochs and a part of a third
FLAGS = (
    *("demo", "--data.drop-budget", "0.5"),
    *("--model.image.widths", "8", "16", "--model.image.depths", "1", "1"),
    *("--model.width", "16", "--model.text.hidden", "32", "--model.bpe.vocab", "600"),
    *("--training.batch", str(BATCH), "--training.samples", str(BATCH * STEPS)),
    *("--training.log-every", "1", "--training.no-tensorboard", "--training.checkpoint-every", "0"),
    *("--training.keep", "5", "--training.precision", "fp64"),  # fp64: the same curve on any number of ranks
)
SAME = 1e-12


def start(shards: str, folder: Path, workers: int, ranks: int = 1) -> psutil.Popen:
    launcher = (
        [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else [sys.executable]
    )
    command = [*launcher, "train.py", *FLAGS, "--data.shards", shards, "--data.workers.count", str(workers)]
    command += ["--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return psutil.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(run: psutil.Popen) -> str:
    output: str = run.communicate(timeout=600)[0]
    assert run.returncode == 0, output[-3000:]
    return output


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def wait_for_step(folder: Path, step: int, run: psutil.Popen) -> None:
    """Until that step is written down; the run must then have more to do."""
    path, end = folder / "metrics.jsonl", time.monotonic() + 600
    while not path.is_file() or path.read_text().count("\n") < step:
        assert run.poll() is None, run.communicate()[0][-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def loader_workers(run: psutil.Popen) -> list[psutil.Process]:
    """The processes that the run's fork server has started."""
    return [worker for child in run.children() for worker in child.children()]


def kill_9(run: psutil.Popen, folder: Path) -> None:
    """Kill the run, look that nothing of it goes on, and take its last two checkpoints: some steps are done again."""
    others = run.children(recursive=True)
    ranks = [p for p in others if "train.py" in p.cmdline()]
    for process in (run, *ranks):
        process.kill()
    run.communicate()
    _, alive = psutil.wait_procs(others, timeout=60)
    assert not alive
    for checkpoint in complete(folder)[-2:]:
        shutil.rmtree(checkpoint)


def complete(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "checkpoints").glob("step-*") if path.suffix != ".partial")


def position(folder: Path) -> dict[str, Any]:
    """Where the newest checkpoint stands in the data, and the samples that each row has skipped in this epoch."""
    manifest = Manifest.of((complete(folder)[-1] / "manifest.json").read_text())
    merged = merge_states(manifest.plain["streams"])
    return {name: merged[name] for name in ("order", "epoch", "batch", "shifts")}


def test_kill_9_anywhere_changes_no_loss_and_no_sample(tmp_path: Path, damaged_shards: str) -> None:
    """One worker is killed, then the run: with the same workers, with others, and with two ranks."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start(damaged_shards, whole, workers=2))

    run = start(damaged_shards, parts, workers=2)
    wait_for_step(parts, 3, run)
    victim = loader_workers(run)[0]
    victim.kill()
    wait_for_step(
        parts, len(rows(parts)) + 10, run
    )  # beyond the batches made ahead, so that its death is in a checkpoint
    kill_9(run, parts)
    for step, workers, ranks in ((20, 2, 1), (28, 3, 1), (36, 1, 2)):
        run = start(damaged_shards, parts, workers, ranks)
        wait_for_step(parts, step, run)
        kill_9(run, parts)
    output = finish(start(damaged_shards, parts, workers=0))

    a, b = ([row["loss"] for row in rows(folder)] for folder in (whole, parts))
    assert [row["step"] for row in rows(parts)] == list(range(1, STEPS + 1))
    assert b[:24] == a[:24]  # one process, whatever its workers: to the bit
    assert b == pytest.approx(a, rel=SAME)
    assert position(parts) == position(whole)
    one, many = (json.loads((folder / "ledger.json").read_text()) for folder in (whole, parts))
    assert (one.pop("restarts"), many.pop("restarts")) == (0, 1)
    assert many == one  # what was not delivered, by reason and shard
    assert one["delivered"] == BATCH * STEPS
    assert one["by_reason"] == {"undecodable picture": one["dropped"]}
    assert one["dropped"] > 100
    assert f"{BATCH * STEPS:,} samples were delivered, {one['dropped']} were not" in output
    assert "1 worker died and went on" in output
