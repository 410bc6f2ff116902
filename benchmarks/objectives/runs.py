"""Runs of train.py, so many at a time, each once: a folder that has a result is not trained again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.objectives.judging import Scored
from benchmarks.objectives.measuring import measure
from vlp.files import write_whole

WORK = Path(".bench/objectives")
RESULT, LOG = "result.json", "log.txt"
RECORD = ("--training.threads", "1", "--training.no-tensorboard", "--training.keep", "1")


@dataclass(frozen=True)
class Run:
    """One training run, and the splits that its model is scored on."""

    stage: str
    recipe: str
    condition: str
    seed: int
    pairs: int
    words: tuple[str, ...] = field(repr=False)
    """presets and flags for train.py"""
    splits: tuple[str, ...] = ("val",)
    work: Path = WORK

    @property
    def command(self) -> list[str]:
        """What follows `train.py`, but for the folder."""
        return [*self.words, "--training.samples", str(self.pairs), "--training.seed", str(self.seed), *RECORD]

    @property
    def folder(self) -> Path:
        """Where it lies: another command is another folder, the same command of another stage the same one."""
        words = [re.sub(r"\W+", "-", self.recipe), re.sub(r"\W+", "-", self.condition), str(self.seed)]
        digest = hashlib.sha256("\0".join(self.command).encode()).hexdigest()[:10]
        return self.work / "-".join([*words, digest])


@dataclass(frozen=True)
class Done:
    """A finished run."""

    run: Run
    seconds: float
    """in the loop"""
    peak_bytes: int
    """most memory of its process"""
    pairs: int
    scored: dict[str, Scored]
    """split -> its reciprocal ranks"""

    @property
    def mrr(self) -> float:
        """On val."""
        return self.scored["val"].mrr


@dataclass(frozen=True)
class Failed:
    """A run that ended otherwise."""

    run: Run
    reason: str


class Progress:
    """Says of each run what came of it, and about how long the rest takes."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total, self.jobs = total, jobs
        self.done, self.begin, self.pairs = 0, time.monotonic(), 0
        self.lock = threading.Lock()

    def says(self, run: Run, word: str, *, trained: bool, left: int) -> None:
        """Print a line; `left`: pairs of the runs that are not done."""
        with self.lock:
            self.done += 1
            self.pairs += run.pairs if trained else 0
            rate = self.pairs / (time.monotonic() - self.begin)
            rest = f", about {left / rate / 60:.0f} min left" if trained and left and rate else ""
            what = f"{run.stage}: {run.recipe}, {run.condition}, seed {run.seed}"
            print(f"{self.done}/{self.total} {what}: {word}{rest}", flush=True)


def train_all(runs: Sequence[Run], jobs: int) -> dict[Run, Done | Failed]:
    """Every run, `jobs` at a time as processes of one thread each."""
    wanted = list(dict.fromkeys(runs))
    left = {run: run.pairs for run in wanted}
    progress = Progress(len(wanted), jobs)

    def one(run: Run) -> Done | Failed:
        there = (run.folder / RESULT).is_file()
        result = outcome(run)
        left.pop(run)
        word = f"MRR {result.mrr:.4f}, {result.seconds:.0f} s" if isinstance(result, Done) else result.reason
        progress.says(run, word, trained=not there, left=sum(left.values()))
        return result

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(wanted, pool.map(one, wanted), strict=True))


def outcome(run: Run) -> Done | Failed:
    """What came of a run: trained and scored as far as that is not done yet."""
    path = run.folder / RESULT
    if not path.is_file():
        reason = trained(run)
        if reason:
            return Failed(run, reason)
    about = json.loads(path.read_text(encoding="utf-8"))
    scored = {split: once(run.folder / f"{split}.npz", run, split) for split in run.splits}
    return Done(run, about["seconds"], about["peak_bytes"], about["samples"], scored)


def once(path: Path, run: Run, split: str) -> Scored:
    """The scores of a run on a split, measured if they are not there."""
    if not path.is_file():
        measure(run.folder / "model", f"bundled:emoji/{split}").save(path)
    return Scored.read(path)


def trained(run: Run) -> str:
    """Train in the run's folder and leave RESULT there; if it fails, the last line of what it said."""
    run.folder.mkdir(parents=True, exist_ok=True)
    status, peak = call([sys.executable, "train.py", *run.command, "--out", str(run.folder)], run.folder / LOG)
    if status:
        said = (run.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"failed ({status}): {said[-1] if said else 'it said nothing'}"
    about = json.loads((run.folder / "train.json").read_text(encoding="utf-8"))
    write_whole(run.folder / RESULT, json.dumps({**about, "peak_bytes": peak, "command": run.command}, indent=1) + "\n")
    return ""


def call(command: Sequence[str], log: Path) -> tuple[int, int]:
    """Exit status and most memory in bytes of a command on one thread, whose words go to `log`."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **one_thread})
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024  # in KiB on Linux


def finished(results: dict[Run, Done | Failed], keep: Callable[[Run], bool]) -> list[Done]:
    """The finished ones among those runs that are asked for, by seed."""
    some = [result for run, result in results.items() if keep(run) and isinstance(result, Done)]
    return sorted(some, key=lambda done: done.run.seed)
