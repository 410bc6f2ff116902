"""Small trainings as processes of their own: how they are started, and what they leave."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BATCH = 64
MODEL = (
    *("--model.image.widths", "8", "16", "--model.image.depths", "1", "1"),
    *("--model.width", "16", "--model.text.hidden", "32", "--model.bpe.vocab", "600"),
)


def start(out: Path, *, steps: int, ranks: int = 1, flags: tuple[str, ...] = ()) -> psutil.Popen:
    """`train.py demo`, small, in `out`, under torchrun where there are several ranks."""
    launcher = (str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(ranks)) if ranks > 1 else ()
    command = [
        *(launcher or (sys.executable,)),
        *("train.py", "demo", *MODEL, "--out", str(out)),
        *("--training.batch", str(BATCH), "--training.samples", str(BATCH * steps), "--training.log-every", "1"),
        *("--training.no-tensorboard", *flags),
    ]
    return process(command)


def process(command: list[str]) -> psutil.Popen:
    """A process of one thread whose output is kept."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return psutil.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def rows(out: Path) -> list[dict[str, Any]]:
    """The metrics that a run has recorded, one row a step."""
    path = out / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def weights(out: Path) -> str:
    """sha256 of the trained weights; empty if there are none."""
    files = sorted((out / "model").glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest() if files else ""


def end(run: psutil.Popen) -> None:
    """Kill a run with all that it has started."""
    processes = [run]
    if run.is_running():
        processes += run.children(recursive=True)
    for one in processes:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    run.communicate()
