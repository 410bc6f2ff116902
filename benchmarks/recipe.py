"""Preset `demo` against preset `plain` in the same wall time, and what each ingredient of `demo` gains.

    python -m benchmarks.recipe --json benchmarks/results/recipe.json                the two presets, three seeds each
    python -m benchmarks.recipe --ablation --json benchmarks/results/ablation.json   an ingredient at a time

Of each pair, `demo` runs first; `plain` is then given as many pairs as fit into the seconds that `demo` took, by its
own rate on this machine just before, and 5 % more. Test splits are read in the comparison alone; the ablation looks at
val only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

WORK = Path(".bench/recipe")
WAYS = ("image_to_text", "text_to_image")
SPLITS = ("test_style", "test_concept", "test_style_concept")
LANGUAGES = ("en", "zh")

ABLATION: dict[str, tuple[str, ...]] = {
    "demo": (),
    "one caption a picture": ("--data.texts", "1"),
    "InfoNCE (other artists' drawings are negatives)": ("--loss.name", "infonce"),
    "AdamW 4e-3 instead of Muon": ("--training.optimizer.name", "adamw", "--training.optimizer.lr", "4e-3"),
    "no augmentation": ("--augment.name", "none", "--picture", "48"),
    "transformer, 2 layers, instead of a bag of tokens": (
        *("--model.text.name", "transformer", "--model.text.hidden", "192", "--model.text.layers", "2"),
    ),
    "64 px instead of 48": ("--model.image-size", "64", "--augment.size", "64"),
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
    record: dict[str, Any] = json.loads((out / "train.json").read_text())
    return record


def evaluate(name: str, splits: Sequence[str]) -> dict[str, Any]:
    """The report of the model of a run on `splits` of the bundled corpus."""
    out = WORK / name / "eval"
    if not (out / "report.json").is_file():
        specs = [f"bundled:emoji/{split}" for split in splits]
        command = [sys.executable, "-m", "vlp.cli", "eval", str(WORK / name / "model"), *specs, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def compare(seeds: int, flags: Sequence[str]) -> list[dict[str, Any]]:
    """A row per metric: the mean over seeds of `demo` and of `plain` at the same wall time, ratio pair by pair."""
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    times: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for seed in range(seeds):
        ours = train("demo", f"demo-{seed}", seed, flags)
        rate = train("plain", f"plain-rate-{seed}", seed, ("--training.samples", "5120"))["samples_per_second"]
        samples = str(math.ceil(1.05 * rate * ours["seconds"]))  # rather more time than `demo` had
        peer = train("plain", f"plain-{seed}", seed, ("--training.samples", samples))
        times.append((ours, peer))
        pairs.append((evaluate(f"demo-{seed}", SPLITS), evaluate(f"plain-{seed}", SPLITS)))
    rows = [row("train.seconds", "s", [(a["seconds"], b["seconds"]) for a, b in times])]
    rows += [row("train.samples", "pairs", [(a["samples"], b["samples"]) for a, b in times])]
    for split in SPLITS:
        for language in LANGUAGES:
            for way in WAYS:
                for k in (1, 5, 10):
                    case = f"{split}/{language}/{way}/recall@{k}"
                    values = [(a["metrics"][case], b["metrics"][case]) for a, b in pairs]
                    intervals = {
                        "ours_interval": widest([a["intervals"][case] for a, _ in pairs]),
                        "peer_interval": widest([b["intervals"][case] for _, b in pairs]),
                    }
                    rows.append({**row(case, "recall", values), **intervals})
    return rows


def widest(intervals: Sequence[Sequence[float]]) -> list[float]:
    """The least low and the greatest high of several intervals."""
    return [min(low for low, _ in intervals), max(high for _, high in intervals)]


def row(case: str, unit: str, values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """One case of the record, from the values of each seed."""
    ratios = [a / b if b else math.inf for a, b in values]
    ours, peer = mean(a for a, _ in values), mean(b for _, b in values)
    return {
        "case": case,
        "unit": unit,
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer if peer else None,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "peer_name": "preset plain, same wall time",
    }


def ablate(samples: int) -> list[dict[str, Any]]:
    """A row per ingredient that is changed: mean recall on val over languages and ways, and the seconds it took."""
    rows = []
    for what, flags in ABLATION.items():
        name = "ablation-" + "".join(c if c.isalnum() else "-" for c in what)
        record = train("demo", name, 0, ("--training.samples", str(samples), *flags))
        metrics = evaluate(name, ("val",))["metrics"]
        found = {
            f"recall@{k}": mean(metrics[f"val/{language}/{way}/recall@{k}"] for language in LANGUAGES for way in WAYS)
            for k in (1, 5, 10)
        }
        rows.append({"case": what, "unit": "recall", "ours": found["recall@1"], "peer": None, "ratio": None, **found})
        rows[-1] |= {"seconds": record["seconds"], "samples": record["samples"]}
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table, for docs/recipe.md."""
    if "recall@5" in rows[0]:
        lines = ["| changed | val R@1 | R@5 | R@10 | seconds |", "|---|---|---|---|---|"]
        form = "| {case} | {recall@1:.3f} | {recall@5:.3f} | {recall@10:.3f} | {seconds:.0f} |"
        return "\n".join(lines + [form.format(**r) for r in rows])
    lines = ["| | demo | plain | ratio | least – greatest of the seeds |", "|---|---|---|---|---|"]
    for r in rows:
        low, high = r["ratio_min"], r["ratio_max"]
        digits = 0 if r["ours"] > 2 else 4
        ratio = f"{r['ratio']:.2f}" if r["ratio"] else "–"
        values = f"{r['ours']:.{digits}f} | {r['peer']:.{digits}f}"
        lines.append(f"| {r['case']} | {values} | {ratio} | {low:.2f} – {high:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ablation", action="store_true", help="change one ingredient at a time, on val")
    parser.add_argument("--samples", type=int, default=100_000, help="budget of each row of the ablation")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to see that it runs")
    options = parser.parse_args()
    quick = ("--training.samples", "5120") if options.quick else ()
    rows = ablate(5120 if options.quick else options.samples) if options.ablation else compare(options.seeds, quick)
    print(table(rows))
    if options.json:
        conditions = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs",
            "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
            "versions": {p: version(p) for p in ("torch", "timm", "tokenizers", "numpy")},
            "command": "python -m benchmarks.recipe " + " ".join(sys.argv[1:]),
            "date": datetime.now(UTC).date().isoformat(),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
