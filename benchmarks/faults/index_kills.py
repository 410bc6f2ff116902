"""kill -9 of what writes an index: at any moment it opens, and answers as before the command or as after it.

Each of `vlp index build|add|remove|update|compact` is killed at every step that it makes in the file system, and one
index lives through kills at random moments. What it answers is compared with exact search over what should be in it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.faults import runs
from benchmarks.faults.index_changes import (
    CHANGES,
    IVF,
    PICTURES,
    Change,
    Content,
    Pick,
    World,
    add,
    build,
    compact,
    remove,
)
from eval.search.verify import problems
from vlp.errors import UserError

STEPS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")  # audited by Python


def attack(folder: Path, rng: random.Random, size: int) -> dict[str, tuple[int, str]]:
    """Every step of every command, and `size` kills at random moments; what was wrong, a line each, is printed."""
    first = runs.start(folder / "trained", steps=30)
    output = first.communicate()[0]
    if first.returncode:
        raise RuntimeError(output[-3000:])
    world = World.made(folder / "world", folder / "trained" / "model")
    steps, wrong = at_every_step(world)
    lived, more = at_random(world, rng, size)
    print(*wrong, *more, sep="\n")
    return {
        "wrong_after_a_step": (len(wrong), f"indexes, of {steps} kills, one at each step of 5 commands"),
        "wrong_at_random": (len(more), f"indexes, of {lived} kills"),
    }


def write(argv: Sequence[str], log: Path, watched: Path, at: int) -> None:
    """In a process of its own: a command, which kills itself before its step number `at` in the folder `watched`."""
    from vlp import cli
    from vlp.config import run_main

    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    steps = 0

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if event not in STEPS or not str(arguments[0]).startswith(str(watched)):
            return
        if event == "open" and isinstance(arguments[2], int) and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        steps += 1
        if steps == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)
    code = run_main(cli.run, list(argv))
    print(f"steps {steps}", flush=True)
    os._exit(code)


def started(world: World, change: Change, index: Path, at: int = 0) -> BaseProcess:
    """The command's process, forked from one that has imported all it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eval.search.live", "eval.search.build", "torch", "faiss", "open_clip"])
    log = world.folder / "log"
    log.unlink(missing_ok=True)
    process = context.Process(target=write, args=(change.argv(index, world.model), log, index.parent, at))
    process.start()
    return process


def said(world: World) -> str:
    """What the last command printed."""
    log = world.folder / "log"
    return log.read_text(errors="replace") if log.is_file() else ""


def run(world: World, change: Change, index: Path) -> int:
    """A command that nobody kills; its steps."""
    process = started(world, change, index)
    process.join(300)
    if process.exitcode:
        raise RuntimeError(f"{change.name} ended with {process.exitcode}: {said(world)[-2000:]}")
    return int(said(world).rsplit(maxsplit=1)[-1])


def first_index(world: World) -> tuple[Path, Content]:
    """An index that has lived: built, with pictures added and removed."""
    index, rng = world.folder / "first" / "index", random.Random(1)
    content: Content = {f"f{n}": 7 * n for n in range(PICTURES)}
    changes: tuple[Pick, ...] = (lambda *_: Change("build", (world.shards(content), *IVF), content), add, remove)
    for pick in changes:
        change = pick(world, content, rng)
        run(world, change, index)
        content = change.after
    return index, content


def at_every_step(world: World, every: int = 1, first: int = 1) -> tuple[int, list[str]]:
    """How many kills there were, and what was wrong after them; at each `every`-th step from the `first` on."""
    start, before = first_index(world)
    kills, wrong, index = 0, [], world.folder / "killed" / "index"
    for pick in CHANGES:
        change = pick(world, before, random.Random(2))
        begin(start, index)
        steps = run(world, change, index)
        different = world.difference(index, change.after)
        wrong += [f"{change.name}: {different}"] if different else []
        for at in range(first, steps + 1, every):
            begin(start, index)
            process = started(world, change, index, at)
            process.join(300)
            kills += 1
            wrong += [f"{change.name} killed at step {at} of {steps}: {one}" for one in checked(world, change, before)]
            if process.exitcode != -signal.SIGKILL:
                wrong.append(f"{change.name} was not killed at step {at}: {said(world)[-300:]}")
    return kills, wrong


def begin(start: Path, index: Path) -> None:
    """A fresh copy of an index, alone in its folder."""
    shutil.rmtree(index.parent, ignore_errors=True)
    shutil.copytree(start, index)


def checked(world: World, change: Change, before: Content) -> list[str]:
    """What is wrong with an index whose writer was killed, and with what the next command makes of it."""
    index = world.folder / "killed" / "index"
    try:
        after, wrong = outcome(world, change, before, index)
        again = Change("compact", (), change.after) if after else change  # the next command
        run(world, again, index)
        different = world.difference(index, change.after)
        wrong += [f"the next command: {different}"] if different else []
        wrong += leftovers(index)
    except (UserError, OSError, RuntimeError) as error:
        return [str(error)]
    return wrong


def outcome(world: World, change: Change, before: Content, index: Path) -> tuple[bool, list[str]]:
    """Whether the change is there, and what is wrong: neither as before nor as after, or acknowledged but not there."""
    acknowledged = "steps " in said(world) or "pictures now" in said(world) or "try next" in said(world)
    wrong = problems(index)
    different = world.difference(index, change.after)
    if not different:
        is_other = bool(world.difference(index, before))
        return is_other or acknowledged, wrong
    if acknowledged:
        wrong.append(f"it was acknowledged, but {different}")
    different = world.difference(index, before)
    return False, [*wrong, *([f"it is neither as before nor as after: {different}"] if different else [])]


def leftovers(index: Path) -> list[str]:
    """What is there beside an index of at most two versions."""
    versions = len(list((index / "versions").iterdir()))
    beside = sorted(path.name for path in (*index.parent.iterdir(), *index.iterdir()))
    wrong = [f"{versions} versions are kept"] if versions > 2 else []
    return wrong + ([f"left over: {beside}"] if beside != ["index", "index.toml", "versions"] else [])


def at_random(world: World, rng: random.Random, size: int) -> tuple[int, list[str]]:
    """One index that lives through `size` kills: how many there were, and what was wrong."""
    start, content = first_index(world)
    index = world.folder / "random" / "index"
    begin(start, index)
    life = Life(world, index, content, rng, CHANGES)
    life.go_on(size)
    return life.kills, life.wrong


@dataclass
class Life:
    """An index that is written by one command after the other, each killed at a random moment unless it ends before."""

    world: World
    index: Path
    content: Content
    rng: random.Random
    changes: Sequence[Pick]
    kills: int = 0
    written: int = 0  # versions
    wrong: list[str] = field(default_factory=list)

    def go_on(self, kills: int, until: float = float("inf")) -> None:
        """So many kills, or until that time of the monotonic clock; then one command that nobody kills."""
        begun = time.monotonic()
        self._written(compact(self.world, self.content, self.rng))
        usual = time.monotonic() - begun
        while self.kills < kills and time.monotonic() < until and not self.wrong:
            pick = build if len(self.content) < PICTURES - 8 else self.rng.choice(self.changes)
            change = pick(self.world, self.content, self.rng)
            process = started(self.world, change, self.index)
            moment(process, self.index, self.rng, usual)
            process.kill()
            process.join(60)
            self.kills += process.exitcode == -signal.SIGKILL
            self._look(change)
        self._written(compact(self.world, self.content, self.rng))
        self.wrong += leftovers(self.index)

    def _written(self, change: Change) -> None:
        run(self.world, change, self.index)
        self.content = change.after
        self.written += 1

    def _look(self, change: Change) -> None:
        try:
            after, some = outcome(self.world, change, self.content, self.index)
        except (UserError, OSError) as error:
            after, some = False, [str(error)]
        self.wrong += [f"kill {self.kills}, {change.name}: {one}" for one in some]
        self.written += after
        self.content = change.after if after else self.content


def moment(process: BaseProcess, index: Path, rng: random.Random, usual: float) -> None:
    """Wait for a random moment: of the whole command, or, as often, of what it does once it has begun to write."""
    if rng.random() < 0.5:
        process.join(rng.uniform(0, usual))
        return
    working = index.with_name(f".{index.name}.part")
    while process.is_alive() and not working.is_dir():
        time.sleep(0.001)
    with suppress(ValueError):
        process.join(rng.uniform(0, usual / 4))
