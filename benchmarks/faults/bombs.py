"""More than sixty hostile inputs: pictures, captions, indexes, presets, checkpoints; each is refused or counted."""

from __future__ import annotations

import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults import hostile_files, hostile_pictures, hostile_texts

Attack = Callable[[Path], None]
SECONDS, BYTES = 30.0, 1 << 30  # that one input may take beside what the reader takes anyway
SOURCES = (hostile_pictures, hostile_texts, hostile_files)


def attack(folder: Path, rng: random.Random, size: int) -> dict[str, tuple[int, str]]:
    """Each input in a process of its own, which must neither die nor raise what is no sentence."""
    inputs = {name: one for source in SOURCES for name, one in source.inputs(rng).items()}
    names = list(inputs)[:size]
    killed = sum(not survives(name, inputs[name], folder / str(n)) for n, name in enumerate(names))
    return {"killed": (killed, f"readers, of {len(names)} hostile inputs")}


def survives(name: str, one: Attack, folder: Path) -> bool:
    """Whether the reader of an input ends well, soon, and without much memory."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")  # all is imported already
    process = context.Process(target=guarded, args=(one, folder))
    process.start()
    process.join(SECONDS)
    late = process.is_alive()
    process.kill()
    process.join()
    if late or process.exitcode:
        print(f"{name}: {f'still at it after {SECONDS:.0f} s' if late else f'exit code {process.exitcode}'}")
        print((folder / "output").read_text(errors="replace")[-1500:])
    return not late and process.exitcode == 0


def guarded(one: Attack, folder: Path) -> None:
    """Run one input; exit code 3 if it took too much memory."""
    sys.stdout = sys.stderr = (folder / "output").open("w", buffering=1, errors="backslashreplace")
    before, begun = peak(), time.monotonic()
    one(folder)
    print(f"{time.monotonic() - begun:.1f} s, {(peak() - before) / 2**20:.0f} MiB")
    if peak() - before > BYTES:
        sys.exit(3)


def peak() -> int:
    """The most memory that this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
