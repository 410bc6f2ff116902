"""RUN/refused: the batches of the last refused steps, to be looked at: what they were, and their pixels and tokens.

batch-00000123.json says why, and names every shard and key; batch-00000123.rank-0.safetensors has the rows of a rank.
Batches are numbered as the data give them: after the run went back, step 120 may be batch 123.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vlp.batch import Batch
from vlp.files import write_whole
from vlp.training.guard import Guard, Watch
from vlp.training.parallel import Parallel

FOLDER = "refused"
NAMED = 3  # keys and shards in the line on the screen


@dataclass(frozen=True)
class Refusals:
    """Where the batches of refused steps go. All ranks make the same calls."""

    run: Path
    guard: Guard
    parallel: Parallel

    def keep(self, batch: Batch, watch: Watch, *, step: int, loss: float, norm: float) -> None:
        """Name the batch of the step that `watch` has just refused, and keep it (all ranks participate)."""
        every = self.parallel.everyones((batch.keys, batch.shards or ()))
        keys = [key for one, _ in every for key in one]
        shards = [shard for _, one in every for shard in one]
        facts = {"step": step, "batch": step + watch.skipped, "why": watch.verdict, "loss": loss, "gradient_norm": norm}
        record = {**facts, "keys": keys, "shards": shards}
        folder = self.run / FOLDER
        if self.parallel.world.rank == 0:
            kept = f"; it is kept in {folder}" if self.guard.keep_batches else ""
            print(f"{sentence(record)}{kept}", file=sys.stderr, flush=True)
        if self.guard.keep_batches:
            self._write(folder / f"batch-{record['batch']:08d}", batch, record)
            self._bound(folder)

    def _write(self, path: Path, batch: Batch, record: dict[str, Any]) -> None:
        if self.parallel.world.rank == 0:
            write_whole(path.with_suffix(".json"), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        columns = {field.name: getattr(batch, field.name) for field in fields(batch)}
        tensors = {name: c.detach().cpu().contiguous() for name, c in columns.items() if isinstance(c, Tensor)}
        if sum(t.nbytes for t in tensors.values()) <= self.guard.keep_bytes:
            mine = path.with_suffix(f".rank-{self.parallel.world.rank}.safetensors")
            write_whole(mine, lambda part: save_file(tensors, part))

    def _bound(self, folder: Path) -> None:
        """Remove the oldest of this rank's files, as far as there are too many, or too many bytes."""
        mine = sorted(folder.glob(f"batch-*.rank-{self.parallel.world.rank}.safetensors"))
        sizes = [path.stat().st_size for path in mine]
        while mine and (len(mine) > self.guard.keep_batches or sum(sizes) > self.guard.keep_bytes):
            mine.pop(0).unlink()
            sizes.pop(0)
        if self.parallel.world.rank == 0:
            for path in sorted(folder.glob("batch-*.json"))[: -self.guard.keep_batches]:
                path.unlink()


def sentence(record: dict[str, Any]) -> str:
    """What was refused, in one line.

    >>> sentence({"step": 7, "why": "the loss jumped", "loss": 9.5, "gradient_norm": 2.0, "keys": ["a", "b"],
    ...           "shards": ["x/0.tar", "x/0.tar"]})
    'step 7 was refused: the loss jumped (loss 9.5, gradient norm 2); 2 pairs: a, b; of x/0.tar (2)'
    """
    keys, shards = record["keys"], Counter(record["shards"]).most_common()
    named = ", ".join(keys[:NAMED]) + " ..." * (len(keys) > NAMED)
    places = ", ".join(f"{shard} ({n})" for shard, n in shards[:NAMED]) + " ..." * (len(shards) > NAMED)
    return (
        f"step {record['step']} was refused: {record['why']} (loss {record['loss']:.4g}, gradient norm "
        f"{record['gradient_norm']:.4g}); {len(keys)} pairs: {named}{'; of ' + places if places else ''}"
    )
