"""kill -9 at any moment of a filter: the same command goes on to the same files."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from data_pipelines.shards.decision import Decision
from tests.eval.conftest import drawing

CODE = """
import sys
from eval.filtering import pool
from eval.filtering.rules import near_duplicates
pool.BLOCK = near_duplicates.BLOCK = 500
from vlp.cli import run
sys.exit(run(sys.argv[1:]))
"""
COUNT, KILLS = 6000, 6


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_filter_that_is_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path: Path, write: Callable[..., Path], embeddings: Callable[..., Path]
) -> None:
    rng = np.random.default_rng(0)
    pictures = [drawing(colour, "circle", shift=shift) for colour in ("red", "blue") for shift in range(8)]
    samples = [Sample(f"s{n:05d}", pictures[n % 16], "png", {"en": f"thing {n}"}) for n in range(COUNT)]
    image = rng.normal(size=(COUNT // 2, 32)).astype(np.float32)
    image = np.concatenate([image, image + 0.02 * rng.normal(size=image.shape)]).astype(np.float32)
    shards = write(tmp_path / "shards", samples, per_shard=500)
    store = embeddings(tmp_path / "store", samples, image, image[::-1].copy(), of=shards, per_part=500)
    tests = write(tmp_path / "tests", [Sample("t", pictures[3], "png", {"en": "t"})])
    rules = ["clip_score", "share=0.9", "near_duplicates", "eps=0.01", "reference", f"like={store}"]
    words = [str(shards), str(store), "--rules", *rules, "decontaminate", f"against={tests}"]

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CODE, "shards", "filter", *words[:2], str(out), *words[2:]]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begun = time.monotonic()
    assert start(tmp_path / "whole").wait(300) == 0
    seconds = time.monotonic() - begun
    whole, killed, chance = files_of(tmp_path / "whole"), tmp_path / "killed", random.Random(0)
    kills, known = 0, 0
    while kills < KILLS:
        run = start(killed)
        end = time.monotonic() + seconds
        while run.poll() is None and time.monotonic() < end:  # until something more is kept, and a moment longer
            if len(list(killed.rglob("*.npy"))) > known + chance.randrange(12):
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        known = len(list(killed.rglob("*.npy")))
        if run.poll() is not None:
            break
        run.kill()
        run.wait()
        kills += 1
        assert not (killed / "decision.json").exists()
    assert start(killed).wait(300) == 0
    assert kills >= 3
    done = Decision.open(killed)
    assert set(done.counts) == {"low CLIP score", "near-duplicate", "picture of a test, by hash"}
    after = files_of(killed)
    assert after.keys() == whole.keys()
    assert [name for name in whole if whole[name] != after[name]] == []
