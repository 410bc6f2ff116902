"""How fast a whole training is, against open_clip's own training program: same shards, same model, same global batch.

    python -m benchmarks.train --json benchmarks/results/train.json        about half an hour on two idle cores

tiny, tiny8: ours as it is (bf16 where the machine has units for it, texts without padding), of patches of 16 and of 8
pixels; tiny_fp32: without either. cached32: gradient caching with batches 32 times as large, against the plain batch.
checkpoint.* and kills.*: what benchmarks.train_checkpoints measures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks import record, train_checkpoints

ROOT = Path(__file__).parents[1]
CASES = ["speed", "caching", "checkpoints"]
WARM = 5  # steps of a run that are not counted
THEIRS = "open_clip 3.3.0, its training program, fp32"


def run(side: str, patch: int, steps: int, threads: int) -> dict[str, Any]:
    """One side's result, as benchmarks.train_sides writes it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", "benchmarks.train_sides", side, str(out)]
        command += ["--patch", str(patch), "--steps", str(steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        result: dict[str, Any] = json.loads(out.read_text())
    return result


def rate(result: dict[str, Any], warm: int = WARM) -> float:
    """Samples a second after the first steps."""
    moments = result["moments"]
    return float(result["batch"] * (len(moments) - 1 - warm) / (moments[-1] - moments[warm]))


def last(result: dict[str, Any], count: int = 10) -> float:
    """The mean loss of the last steps."""
    return mean(result["losses"][-count:])


def speed(rounds: int, steps: int, threads: int) -> list[dict[str, Any]]:
    """The cases against open_clip, in turn."""
    results: dict[tuple[str, int], list[dict[str, Any]]] = {}
    sides = [("open_clip", 16), ("ours", 16), ("plain", 16), ("open_clip", 8), ("ours", 8)]
    for number in range(rounds):
        for side, patch in sides:
            result = run(side, patch, steps if patch == 16 else steps * 3 // 4, threads)
            results.setdefault((side, patch), []).append(result)
            print(f"{number} {side} {patch}: {rate(result):.1f} samples/s, loss {last(result):.4f}", flush=True)
    rows = []
    for case, side, patch in (("tiny", "ours", 16), ("tiny_fp32", "plain", 16), ("tiny8", "ours", 8)):
        own, peer = results[side, patch], results["open_clip", patch]
        rates = [rate(r) for r in own], [rate(r) for r in peer]
        losses = [last(r) for r in own], [last(r) for r in peer]
        rows.append(record.row(f"{case}.samples_per_second", "samples/s", *rates, peer_name=THEIRS))
        rows.append(record.row(f"{case}.loss", "mean of the last 10 steps", *losses, peer_name=THEIRS))
    return rows


def caching(rounds: int, steps: int, threads: int) -> list[dict[str, Any]]:
    """Gradient caching against the plain batch."""
    large, small = [], []
    for number in range(rounds):
        small.append(run("ours", 16, steps, threads))
        large.append(run("cached", 16, 3, threads))
        print(f"{number} cached: {rate(large[-1], 0):.1f} samples/s against {rate(small[-1]):.1f}", flush=True)
    peer = "the same with the plain batch of 128"
    peaks = [r["peak_mib"] for r in large], [r["peak_mib"] for r in small]
    times = [1e3 / rate(r, 0) for r in large], [1e3 / rate(r) for r in small]
    return [
        record.row("cached32.peak_memory", "MiB", *peaks, peer_name=peer),
        record.row("cached32.time_per_sample", "ms", *times, peer_name=peer),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--quick", action="store_true", help="one round of few steps")
    options = parser.parse_args()
    rounds, steps = (1, 15) if options.quick else (options.rounds, options.steps)
    rows = []
    for name, cases in (("speed", speed), ("caching", caching)):
        if name in options.only:
            rows += cases(rounds, steps, options.threads)
    if "checkpoints" in options.only:
        torch.set_num_threads(options.threads)
        rows += train_checkpoints.rows(pairs=4 * rounds, killed=2 if options.quick else 20)
    packages = ("torch", "open_clip_torch", "webdataset")
    record.write(options.json, record.conditions(packages, threads=options.threads), rows)


if __name__ == "__main__":
    main()
