"""Checkpoints: whole or absent, given only to the run that wrote them; which are kept, and which one a run takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from torch import Tensor

from vlp.config import did_you_mean
from vlp.distributed.background import BackgroundGroup
from vlp.distributed.tensor_parts import Reading, Table
from vlp.errors import UserError
from vlp.training.checkpoints.identity import refuse_difference
from vlp.training.checkpoints.manifest import Damaged, Manifest
from vlp.training.checkpoints.place import Place
from vlp.training.checkpoints.source import FORMER_END, Source, open_source
from vlp.training.checkpoints.writer import Job, Writer

REFUSING = ".refusing"  # ending of one that was written while the guard refused steps, or doubted
GRACE_S = 10.0
"""How long a rank that fails waits for the checkpoint that is being written; then it tells the others."""
From = Literal["newest", "good", "best", "extend"]


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay."""

    last: int = 2
    """so many of the last good ones"""
    every: int = 0
    """those of steps that this divides; 0: none for that"""
    best: str = ""
    """the one with the greatest value of this metric, or with a "-" before its name the least; empty: none for that"""

    def score(self, metrics: Mapping[str, float]) -> float | None:
        """What of an evaluation is compared; None where there was none.

        Raises UserError if the evaluation has no such metric.
        """
        name = self.best.removeprefix("-")
        if not metrics or not name:
            return None
        if name not in metrics:
            raise UserError(
                f'training.keep_best is "{self.best}", but the evaluation has no such metric'
                f"{did_you_mean(name, sorted(metrics)) or '; it has ' + ', '.join(sorted(metrics))}"
            )
        return -metrics[name] if self.best.startswith("-") else metrics[name]


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read."""

    name: str
    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Any]
    identity: Mapping[str, Any]
    """settings that it was written with"""


class Checkpoints:
    """The checkpoints of one run, step-00000123 and so on. All ranks make the same calls, unless it says rank 0."""

    def __init__(
        self,
        place: Place,
        keep: Keep,
        group: BackgroundGroup | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """`defaults`: of settings that checkpoints of an earlier version may lack in their identity."""
        self.place, self.keep, self.defaults = place, keep, defaults or {}
        self.group = group or BackgroundGroup()
        self.writer = Writer(place, self.group)
        self.passed_over: list[str] = []
        self.best: tuple[float, str] | None = None
        """score and name of the best one so far, on rank 0"""

    def all(self) -> list[str]:
        """Complete checkpoints, oldest first."""
        return sorted(self.place.names())

    def good(self) -> list[str]:
        """Those that were not written while the guard refused steps or doubted, oldest first."""
        return [name for name in self.all() if not name.removesuffix(FORMER_END).endswith(REFUSING)]

    def clear(self) -> None:
        """Remove every checkpoint and every half-written one (rank 0)."""
        for name in self.all():
            self.place.remove(name)
        self.place.tidy()

    def better(self, metrics: Mapping[str, float]) -> bool:
        """Whether these numbers of an evaluation are the best so far (rank 0). Raises UserError as `Keep.score`."""
        score = self.keep.score(metrics)
        return score is not None and (self.best is None or score > self.best[0])

    def write(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        plain: Mapping[str, Any],
        *,
        identity: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        refusing: bool = False,
    ) -> str:
        """Begin to write a checkpoint, whose name is returned; a crash at any moment leaves it whole or absent.

        `tensors` are copied before this returns; `plain` (JSON values) and `identity` are rank 0's. One that is written
        while the guard is `refusing` takes no good one's place. What goes wrong is raised by the next call, or by
        `wait`: UserError on a full disk, or by a store that gives up; the checkpoints from before are then still there.
        """
        name = f"step-{step:08d}{REFUSING if refusing else ''}"
        numbers = {key: float(value) for key, value in (metrics or {}).items()}
        manifest = Manifest(step, dict(identity), dict(plain), numbers, [], {})
        score = self.keep.score(numbers)

        def done() -> None:
            if score is not None and (self.best is None or score > self.best[0]):
                self.best = score, name
            self._prune(name)

        self.writer.start(Job(name, tensors, manifest, done, self._left))
        return name

    @property
    def busy(self) -> bool:
        """Whether one is still being written here. Raises what went wrong with it."""
        return self.writer.busy

    def wait(self) -> None:
        """Until the last one is written. Raises what went wrong with it."""
        self.writer.wait()

    def read(
        self, identity: Mapping[str, Any], room: Callable[[Table], Mapping[str, Tensor]], **how: Any
    ) -> Saved | None:
        """The checkpoint to go on from, in the tensors that `room` gave; None if there is none yet.

        Nothing changes in the folder, nor in the tensors unless one is whole. `how`: `start`, and the `names` of
        FileSource. newest: the newest that is whole; a damaged one is passed over, saying so. good: the newest that was
        not written while the guard refused steps. best: the best by `keep.best`. extend: the newest. For the last three
        the budget, the schedule and the settings of the optimizer may differ from those it was written with. Raises
        UserError if none can be read, or if a run with another `identity` wrote it (the first difference is named).
        """
        self.wait()
        start: From = how.get("start", "newest")
        names = self.group.from_rank_0(lambda: self._choose(start))
        problems = []
        for name in reversed(names):
            source, reading, problem = self._opened(name, room, identity, start, how.get("names") or [])
            if source is not None and reading is not None and not problem:
                reading.fill(source.read)
                self.place.let_go()
                return Saved(name, reading.tensors, source.plain, source.identity)
            problems.append(f"{name}: {problem}")
            self.passed_over.append(name)
            if self.group.rank == 0:
                print(f"the checkpoint {name} is damaged ({problem}); trying the one before", file=sys.stderr)
        self.place.let_go()
        if names:
            raise UserError(
                f"none of the {len(names)} checkpoints in {self.place.url} can be read "
                f"({'; '.join(problems[:3])}{' ...' * (len(problems) > 3)}); move them away to start over"
            )
        return None

    def _choose(self, start: From) -> list[str]:
        """Those that may be read, oldest first; what was written after them is passed over (rank 0)."""
        every = self.all()
        self._know_the_best(every)
        if start == "best":
            if self.best is None:
                raise UserError(
                    f"training.resume_from is best, but no checkpoint in {self.place.url} was kept as the best; "
                    "give training.keep_best when a run begins, or go on from the newest or the last good one"
                )
            names = [self.best[1]]
        else:
            names = self.good() if start == "good" else every
        last = names[-1] if names else ""
        self.passed_over = [name for name in every if name > last and name not in names] if names else []
        return names

    def _know_the_best(self, names: list[str]) -> None:
        if not self.keep.best:
            return
        self.best = None
        for name in names:
            try:
                score = self.keep.score(Manifest.of(self.place.manifest(name)).metrics)
            except Exception:  # a damaged one is nobody's best; reading it says what is wrong
                continue
            if score is not None and (self.best is None or score > self.best[0]):
                self.best = score, name

    def _opened(
        self,
        name: str,
        room: Callable[[Table], Mapping[str, Tensor]],
        identity: Mapping[str, Any],
        start: From,
        names: list[list[str]],
    ) -> tuple[Source | None, Reading | None, str]:
        """A checkpoint of this run and what this rank reads of it, or what is wrong with it, on any rank."""
        source: Source | None = None
        reading: Reading | None = None
        problem = ""
        try:
            source = open_source(self.place, name, names)
            refuse_difference(
                f"{self.place.url}/{name}",
                source.identity,
                identity,
                settings=start == "newest",
                defaults=self.defaults,
            )
            reading = Reading(room(source.table), source.table)
            source.check(reading.ranks)
        except Damaged as damage:
            problem = str(damage)
        except UserError:
            raise
        except Exception as error:  # whatever forged tables make a reader say: the other ranks wait to hear of it
            problem = f"it cannot be read, {type(error).__name__}"
        problems = self.group.everyones(problem)
        return source, reading, next((one for one in problems if one), "")

    def set_aside(self) -> None:
        """Take what `read` passed over out of the list (rank 0 alone, when all ranks have read)."""
        for name in sorted(self.passed_over):
            self.place.set_aside(name)
        self.passed_over = []

    def _prune(self, newest: str) -> None:
        """Remove those that need not stay (rank 0, in the background)."""
        kept = {*self.good()[-self.keep.last :], newest, self.best[1] if self.best else ""}
        for name in self.all():
            if name not in kept and not (self.keep.every and step_of(name) % self.keep.every == 0):
                self.place.remove(name)

    def _left(self) -> str:
        kept = self.all()
        return f"the checkpoint before it, {kept[-1]}, is whole" if kept else "no checkpoint was written before it"

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        elif self.writer.thread is not None:  # what the other ranks still take part in is finished
            self.writer.thread.join(GRACE_S if self.group.size > 1 else None)


def step_of(name: str) -> int:
    """The step of a checkpoint.

    >>> step_of("step-00000123.refusing")
    123
    """
    return int(name.removeprefix("step-").partition(".")[0])
