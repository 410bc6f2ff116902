"""The sharded loss against open_clip's: CPU time, memory, and bytes on the wire.

    python -m benchmarks.loss [--json OUT] [--quick]

Width 512, float32, one thread per process. Times are taken in turns in one process (or one world of gloo processes);
memory is that of processes of their own: resident memory for one process, living tensors for a rank.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import record
from vlp.distributed.plan import cost

ROOT = Path(__file__).resolve().parents[1]
VERSION = importlib.metadata.version("open_clip_torch")
CLIP = f"open_clip {VERSION} ClipLoss"
LOCAL = f"open_clip {VERSION} ClipLoss(local_loss, gather_with_grad)"
BIDIR = f"open_clip {VERSION} SigLipLoss(dist_impl=bidir)"
MEGA = 1e6


def measured(case: str, **options: Any) -> Any:
    """What a fresh process measured."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.loss_sides", case, json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{case} {options} failed:\n{done.stderr[-3000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def both(case: str, rounds: int, **options: Any) -> tuple[list[float], list[float]]:
    """Ours and the peer's, in turns, each in fresh processes."""
    turns = [[measured(case, side=side, **options) for side in ("ours", "peer")] for _ in range(rounds)]
    return [turn[0] for turn in turns], [turn[1] for turn in turns]


def single(rounds: int, quick: bool) -> list[dict[str, Any]]:
    small, large = (2048, 4096) if quick else (8192, 32768)
    spent = measured("cpu_time", pairs=small, rounds=rounds)
    ours, peer = both("rss", 1 if quick else 3, pairs=small)
    return [
        record.row("single8192.cpu_time", "s", spent["ours"], spent["peer"], CLIP),
        record.row("single8192.peak_memory", "MB", ours, peer, CLIP),
        record.row("single32768.peak_memory", "MB", [measured("rss", side="ours", pairs=large)]),
    ]


def worlds(rounds: int, quick: bool) -> list[dict[str, Any]]:
    pairs = 64 if quick else 256
    rows = []
    measurements = measured("world", size=8, pairs=pairs, rounds=rounds, negatives="grid:2x4", objective="infonce")
    for case, unit, key, scale in (("bytes", "MB", "bytes", MEGA), ("peak_memory", "MB", "memory", MEGA)):
        values = ([measurements[side][key] / scale] for side in ("ours", "peer"))
        rows.append(record.row(f"ranks8.{case}", unit, *values, LOCAL))
    rows.append(
        record.row("ranks8.step_time", "s", measurements["ours"]["seconds"], measurements["peer"]["seconds"], LOCAL)
    )
    measurements = measured("world", size=16, pairs=pairs, rounds=1, negatives="grid:4x4", objective="infonce")
    rows.append(
        record.row("ranks16.bytes", "MB", *([measurements[s]["bytes"] / MEGA] for s in ("ours", "peer")), LOCAL)
    )
    measurements = measured("world", size=8, pairs=pairs, rounds=1, negatives="grid:2x4", objective="siglip")
    rows.append(
        record.row("siglip8.bytes", "MB", *([measurements[s]["bytes"] / MEGA] for s in ("ours", "peer")), BIDIR)
    )
    return rows


def planned(quick: bool) -> list[dict[str, Any]]:
    size = 64 if quick else 1024
    setup = cost.Setup(ranks=size, pairs=256, width=1024)
    ours = next(c for c in cost.candidates(setup) if c.name == ("grid:8x8" if quick else "grid:32x32"))
    peer = cost.open_clip(setup)[0]
    memory = both("simulated", 1, size=size, pairs=256, width=1024, per_node=8)
    return [
        record.row("plan1024.bytes", "MB", [ours.received / MEGA], [peer.received / MEGA], LOCAL),
        record.row("plan1024.peak_memory", "MB", *([m / MEGA for m in side] for side in memory), LOCAL),
    ]


def growth(quick: bool) -> list[dict[str, Any]]:
    """Peaks at the larger size over those at the smaller one, `ours` and `peer` being such quotients themselves."""
    eight = both("siglip_logits", 1, size=8, pairs=1024)
    two = both("siglip_logits", 1, size=2, pairs=1024)
    ours, peer = ([a[0] / b[0]] for a, b in zip(eight, two, strict=True))
    few, many = (2, 8) if quick else (4, 32)
    cached = [
        measured("cached_rss", chunks=many) / measured("cached_rss", chunks=few) for _ in range(1 if quick else 3)
    ]
    return [
        record.row("siglip.memory_growth", "8 ranks / 2", ours, peer, BIDIR),
        record.row("cached.memory_growth", f"{many} chunks / {few}", cached),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run? not for numbers")
    parser.add_argument(
        "--only", choices=["single", "worlds", "planned", "growth"], help="one part, others kept from OUT"
    )
    options = parser.parse_args()
    rounds = 2 if options.quick else 5
    parts = {
        "single": lambda: single(rounds, options.quick),
        "worlds": lambda: worlds(3 * rounds, options.quick),
        "planned": lambda: planned(options.quick),
        "growth": lambda: growth(options.quick),
    }
    rows = [r for name, part in parts.items() if options.only in (None, name) for r in part()]
    if options.only and options.json and options.json.exists():
        kept = json.loads(options.json.read_text())["rows"]
        cases = {r["case"]: r for r in rows}
        rows = [cases.pop(r["case"], r) for r in kept] + list(cases.values())
    versions = ("torch", "open_clip_torch")
    record.write(options.json, record.conditions(versions, threads=1), rows)


if __name__ == "__main__":
    main()
