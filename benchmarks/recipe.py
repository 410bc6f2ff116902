"""Preset `demo` against preset `plain`, which is given more wall time, and what each ingredient of `demo` gains.

    python -m benchmarks.recipe --json benchmarks/results/recipe.json                the two presets, three seeds each
    python -m benchmarks.recipe --ablation --json benchmarks/results/ablation.json   an ingredient at a time

`plain` sees 245,000 pairs, about as many as `demo`, which takes it several times as long; train.seconds says how long.
Test splits are read in the comparison alone; the ablation looks at val only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import record

WORK = Path(".bench/recipe")
WAYS = ("image_to_text", "text_to_image")
PEER = "preset plain"
SPLITS = ("test_style", "test_concept", "test_style_concept")
LANGUAGES = ("en", "zh")

SMALL = ("--model.image-size", "48", "--augment.size", "48")  # what the ablation starts from, to be done sooner
ABLATION: dict[str, tuple[str, ...]] = {
    "demo": (),
    "no tags": ("--data.captions.weights.tags.en=0", "--data.captions.weights.tags.zh=0", "--data.captions.texts=2"),
    "one text a picture, drawn": ("--data.captions.texts", "1"),
    "InfoNCE (other artists' drawings are negatives)": ("--loss.name", "infonce"),
    "AdamW 4e-3 instead of Muon": ("--training.optimizer.name", "adamw", "--training.optimizer.lr", "4e-3"),
    "no augmentation": ("--augment.name", "none"),
    "transformer, 2 layers, instead of a bag of tokens": (
        *("--model.text.name", "transformer", "--model.text.hidden", "192", "--model.text.layers", "2"),
    ),
    "64 px, as the preset has it": ("--model.image-size", "64", "--augment.size", "64"),
    "batch 256": ("--training.batch", "256"),
    "averaged weights, 0.99": ("--training.ema", "0.99"),
    "label smoothing 0.1": ("--loss.label-smoothing", "0.1"),
}


def train(preset: str, name: str, seed: int, flags: Sequence[str]) -> dict[str, Any]:
    """What train.json says of a finished run in WORK/NAME; a run that is there already is not repeated."""
    out = WORK / name
    if not (out / "train.json").is_file():
        command = [sys.executable, "train.py", preset, "--out", str(out), "--training.seed", str(seed), *flags]
        subprocess.run(command, check=True)
        with (out / "train.json").open("r+") as file:
            kept = {**json.load(file), "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
            file.seek(0)
            json.dump(kept, file, indent=1)
    trained: dict[str, Any] = json.loads((out / "train.json").read_text())
    return trained


def evaluate(name: str, splits: Sequence[str]) -> dict[str, Any]:
    """The report of the model of a run on `splits` of the bundled corpus."""
    out = WORK / name / "eval"
    if not (out / "report.json").is_file():
        specs = [f"bundled:emoji/{split}" for split in splits]
        command = [sys.executable, "-m", "vlp.cli", "eval", str(WORK / name / "model"), *specs, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def pair(seed: int, flags: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records of `demo` and of `plain`."""
    return train("demo", f"demo-{seed}", seed, flags), train("plain", f"plain-{seed}", seed, flags)


def compare(seeds: int, jobs: int, flags: Sequence[str]) -> list[dict[str, Any]]:
    """A row per metric: the mean over seeds of `demo` and of `plain`, ratio pair by pair."""
    with ThreadPoolExecutor(jobs) as pool:
        times = list(pool.map(lambda seed: pair(seed, flags), range(seeds)))
    pairs = [(evaluate(f"demo-{seed}", SPLITS), evaluate(f"plain-{seed}", SPLITS)) for seed in range(seeds)]
    rows = [record.row("train.seconds", "s", *columns(times, "seconds"), PEER)]
    rows += [record.row("train.samples", "pairs", *columns(times, "samples"), PEER)]
    for split in SPLITS:
        for language in LANGUAGES:
            for way in WAYS:
                for k in (1, 5, 10):
                    case = f"{split}/{language}/{way}/recall@{k}"
                    values = columns([(a["metrics"], b["metrics"]) for a, b in pairs], case)
                    intervals = {
                        "ours_interval": widest([a["intervals"][case] for a, _ in pairs]),
                        "peer_interval": widest([b["intervals"][case] for _, b in pairs]),
                    }
                    rows.append({**record.row(case, "recall", *values, PEER), **intervals})
    return rows


def columns(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], key: str) -> tuple[list[float], list[float]]:
    """The values of `key` on the left and on the right of each pair."""
    return [a[key] for a, _ in pairs], [b[key] for _, b in pairs]


def widest(intervals: Sequence[Sequence[float]]) -> list[float]:
    """The least low and the greatest high of several intervals."""
    return [min(low for low, _ in intervals), max(high for _, high in intervals)]


def ablate(samples: int, seeds: int, jobs: int) -> list[dict[str, Any]]:
    """A row per ingredient that is changed: mean recall on val over languages, ways and seeds, beside `demo`."""

    def one(what: str, seed: int) -> dict[str, float]:
        name = "ablation-" + "".join(c if c.isalnum() else "-" for c in what) + f"-{seed}"
        done = train("demo", name, seed, ("--training.samples", str(samples), *SMALL, *ABLATION[what]))
        metrics = evaluate(name, ("val",))["metrics"]
        numbers = {
            f"recall@{k}": mean(metrics[f"val/{language}/{way}/recall@{k}"] for language in LANGUAGES for way in WAYS)
            for k in (1, 5, 10)
        }
        return {**numbers, "seconds": done["seconds"]}

    with ThreadPoolExecutor(jobs) as pool:
        work = [(what, seed) for seed in range(seeds) for what in ABLATION]
        runs = dict(zip(work, pool.map(lambda w: one(*w), work), strict=True))
    rows = []
    for what in ABLATION:
        mine, demo = ([runs[name, seed] for seed in range(seeds)] for name in (what, "demo"))
        values = ([run["recall@1"] for run in side] for side in (mine, demo))
        means = {key: mean(run[key] for run in mine) for key in mine[0]}
        rows.append({**record.row(what, "val recall@1", *values, "demo"), **means, "samples": samples})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side; give each its OMP_NUM_THREADS")
    parser.add_argument("--ablation", action="store_true", help="change one ingredient at a time, on val")
    parser.add_argument("--samples", type=int, default=100_000, help="budget of each row of the ablation")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to see that it runs")
    options = parser.parse_args()
    quick = ("--training.samples", "5120") if options.quick else ()
    if options.ablation:
        rows = ablate(5120 if options.quick else options.samples, options.seeds, options.jobs)
    else:
        rows = compare(options.seeds, options.jobs, quick)
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    record.write(options.json, record.conditions(("torch", "timm", "tokenizers", "numpy"), threads=threads), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
