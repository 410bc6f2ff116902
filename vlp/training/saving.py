"""What the loop asks of checkpoints: to begin from one, to write one, and to go back to one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlp.files import full_disk
from vlp.training.checkpoints.contents import Contents
from vlp.training.checkpoints.folder import Checkpoints, From
from vlp.training.sinks import Sinks
from vlp.training.state import TrainState

ROLLBACKS = "rollbacks.jsonl"  # in the run's folder: when it went back, why, and what it went round
Positions = Sequence[Any]  # what `Stream.state_dict` of every rank gave


@dataclass(frozen=True)
class Begun:
    """Where a checkpoint left a run."""

    positions: Positions | None = None
    """in the data, of all ranks that wrote it"""
    row: int = 0
    """bytes of metrics.jsonl"""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """settings that it was written with"""


@dataclass(frozen=True)
class Saving:
    """The checkpoints of a run, and what goes into them. All ranks make the same calls."""

    state: TrainState
    checkpoints: Checkpoints
    identity: Mapping[str, Any]
    """what a run that goes on must share"""
    run: Path
    before: Callable[[Positions], None] | None
    """called with the positions of all ranks in the data, on rank 0, before each checkpoint"""

    def begin(self, start: From) -> Begun:
        """Where a checkpoint left the run; at the very start nothing."""
        self.checkpoints.place.check()
        before = self._read(start)
        self.checkpoints.group.everyones(None)  # all have read what rank 0 may now rename
        if self.checkpoints.group.rank == 0:
            self.checkpoints.set_aside()
            self.checkpoints.place.tidy()
        self.checkpoints.group.everyones(None)
        return before or Begun()

    def due(self, seconds: float, metrics: Mapping[str, float]) -> bool:
        """Whether it is time for a checkpoint: `seconds` after the last, or after an evaluation with `metrics`.

        Rank 0 decides. One that is still being written is waited for only where every step is to have its own.
        """
        settings, step = self.state.settings, self.state.step
        busy = self.checkpoints.busy  # which also raises what went wrong with the last one
        if self.checkpoints.group.rank:
            return False
        late = seconds >= settings.checkpoint_every and not (busy and settings.checkpoint_every)
        return late or self.checkpoints.better(metrics) or bool(settings.keep_every and step % settings.keep_every == 0)

    def write(self, stream: Any, sinks: Sinks, metrics: Mapping[str, float]) -> None:
        """Begin to write a checkpoint; `metrics`: of an evaluation at this step; `stream`: this rank's position."""
        contents = Contents(self.state)
        streams = self.state.parallel.everyones(stream)  # the last checkpoint may still be under way in its own group
        if self.checkpoints.group.rank == 0 and self.before is not None:
            self.before(streams)
        self.checkpoints.write(
            self.state.step,
            contents.tensors(),
            {"metrics": sinks.position, **contents.plain(streams)},
            identity=self.identity,
            metrics=metrics,
            refusing=self.state.watch.doubtful,
        )

    def go_back(self, sinks: Sinks, *, loss: float, norm: float) -> None:
        """Take the weights and all else but the data to the last good checkpoint.

        The data go on from where they are, so that the batches since are gone round. Raises UserError when it was done
        often enough, or where there is none.
        """
        here, state = replace(self.state.watch), self.state
        step, batches = state.step, state.step
        if here.rollbacks >= here.guard.rollbacks:
            done = f"the run has gone back {here.rollbacks} times" if here.rollbacks else "it may not go back"
            raise here.give_up(loss, norm, done)
        self.checkpoints.wait()
        back_at = self._read("good")
        if back_at is None:
            raise here.give_up(loss, norm, "there is no good checkpoint to go back to yet")
        batches -= state.step
        state.watch.went_back(here, batches)
        sinks.back(back_at.row)
        self.checkpoints.group.everyones(None)
        if self.checkpoints.group.rank == 0:
            self.checkpoints.set_aside()
            self._say(here.lost, step, batches)

    def _say(self, why: str, step: int, batches: int) -> None:
        watch, back = self.state.watch, self.state.step
        lower = f", at {watch.rate:g} of the learning rate" if watch.rate != 1 else ""
        print(
            f"step {step}: {why}; the run goes back to step {back} and on with the data after these {batches} batches"
            f"{lower} (rollback {watch.rollbacks} of {watch.guard.rollbacks})",
            file=sys.stderr,
            flush=True,
        )
        row = {"step": step, "why": why, "to": back, "batches": batches, "rate": watch.rate}
        path = self.run / ROLLBACKS
        with full_disk(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _read(self, start: From) -> Begun | None:
        contents = Contents(self.state)
        saved = self.checkpoints.read(self.identity, contents.room, start=start, names=contents.names())
        if saved is None:
            return None
        return Begun(contents.take(saved.tensors, saved.plain), int(saved.plain["metrics"]), saved.identity)
