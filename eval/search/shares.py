"""Filling an index by several processes: the rows are cut into shares, which any rank takes, fills and writes.

No ranks talk to each other. Rank 0 leads: it writes down the plan (the trained index, and which rows are whose), takes
shares as the others do, and puts all of them together. A share is locked by who fills it; the lock of a rank that died
is free, and another takes the share. So ranks may die, and come late or not at all.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from eval.index import Index, Vectors
from eval.index._lists import write_joined
from eval.search.fill import sample
from eval.search.parts import BLOCK
from eval.search.spool import vectors_of
from eval.search.versions import working_folder
from vlp.config import build, component_name, to_tree
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.lock import held, locked

T = TypeVar("T")
PLAN = "plan.json"
SHARES_A_RANK = 4
BLOCKS_ON_DISK = 16  # of a share at most, where the index is not to be in memory
LOOKED_EVERY_S = 0.2
PATIENCE_S = 120.0  # without a leader


@dataclass(frozen=True)
class Plan:
    """What all ranks do."""

    token: str  # of this build: what an earlier one left is not taken for its own
    kind: Index
    count: int  # of all vectors
    rows: int  # of a share
    folder: Path

    @property
    def shares(self) -> int:
        """How many there are."""
        return -(-self.count // self.rows)

    @property
    def trained(self) -> Path:
        """The trained index, empty."""
        return self.folder / f"trained-{self.token}.faiss"

    def share(self, number: int) -> Path:
        """The index of a share."""
        return self.folder / f"share-{self.token}-{number:06d}.faiss"

    def missing(self) -> Iterator[int]:
        """The shares that nobody has filled yet."""
        return (number for number in range(self.shares) if not self.share(number).is_file())

    @classmethod
    def read(cls, folder: Path) -> Plan | None:
        """The plan in a working folder; None where there is none yet."""
        try:
            told = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        kind: Index = build(Index, told.pop("kind"), "kind")
        return cls(**told, kind=kind, folder=folder)

    def write(self) -> None:
        """Write it down."""
        told = {"token": self.token, "count": self.count, "rows": self.rows}
        tree = {"name": component_name(self.kind, Index), **to_tree(self.kind)}
        write_whole(self.folder / PLAN, json.dumps({**told, "kind": tree}))


def led(kind: Index, folder: Path, vectors: NDArray[np.float32], size: int = 1) -> Vectors:
    """The index of `vectors` [N, D], filled with what other ranks do, by the rank that leads.

    Goes on where a leader was killed. One share is in memory beside the index. Raises UserError if there are too few
    vectors, or if indexes of this kind cannot be put together.
    """
    kind.check(len(vectors))
    if not kind.can_merge():
        raise UserError(
            f"an index of kind {component_name(kind, Index)} is built by one process and cannot be put together from "
            "shares; leave --size out, or choose another kind"
        )
    plan = Plan.read(folder)
    if plan is None or (plan.kind, plan.count) != (kind, len(vectors)):
        plan = _planned(kind, folder, vectors, size)
    while missing := list(plan.missing()):
        if not any(_take(plan, number, vectors) for number in missing):
            time.sleep(LOOKED_EVERY_S)
    if kind.lists_on_disk():
        return _joined(plan)
    made = Vectors.load(plan.trained, kind)
    made.reserve(len(vectors))
    for number in range(plan.shares):
        made.merge(Vectors.load(plan.share(number), kind))
    return made


def _joined(plan: Plan) -> Vectors:
    """The shares as one index whose lists stay on the disk."""
    path = plan.folder / f"joined-{plan.token}.faiss"
    parts = [Vectors.load(plan.share(number), plan.kind, mapped=True).faiss_index for number in range(plan.shares)]
    write_whole(path, lambda temporary: write_joined(parts, temporary))
    return Vectors.load(path, plan.kind)


def follow(out: Path, rank: int, *, patience_s: float = PATIENCE_S) -> int:
    """Fill shares of the build of `out` that another process leads, until it is whole; gives back how many.

    Raises UserError if there is no leader for so many seconds, or if it ended before the index was whole.
    """
    folder, done = working_folder(out), 0
    lead = (out.parent, f".{out.name}.lock")
    plan = _awaited(out, lambda: Plan.read(folder) if held(*lead) else None, patience_s, "no plan was written")
    vectors = vectors_of(folder)
    while plan.trained.is_file() and (missing := list(plan.missing())):
        turned = missing[rank % len(missing) :] + missing[: rank % len(missing)]  # ranks begin at different shares
        own = next((number for number in turned if _take(plan, number, vectors)), None)
        done += own is not None
        if own is None:
            time.sleep(LOOKED_EVERY_S)
    _awaited(out, lambda: True if not plan.trained.is_file() else None, patience_s, "the shares were not put together")
    return done


def _planned(kind: Index, folder: Path, vectors: NDArray[np.float32], size: int) -> Plan:
    for path in [*folder.glob("trained-*.faiss"), *folder.glob("share-*.faiss")]:
        path.unlink()
    blocks = -(-len(vectors) // BLOCK)
    most = BLOCKS_ON_DISK if kind.lists_on_disk() else blocks
    rows = BLOCK * max(1, min(most, blocks // (SHARES_A_RANK * size)))
    plan = Plan(secrets.token_hex(4), kind, len(vectors), rows, folder)
    made = kind.empty(vectors.shape[1])
    made.train(sample(vectors, kind.sample_to_train()))
    write_whole(plan.trained, made.save)
    plan.write()
    return plan


def _take(plan: Plan, number: int, vectors: NDArray[np.float32]) -> bool:
    """Fill a share, unless somebody has or does; whether it was filled here."""
    lock = f".share-{number:06d}.lock"
    if not plan.folder.is_dir() or held(plan.folder, lock):
        return False
    try:
        with locked(plan.folder, lock, wait_s=0.5):
            if plan.share(number).is_file() or not plan.trained.is_file():
                return False
            made = Vectors.load(plan.trained, plan.kind.in_memory())
            stop = min(plan.count, (number + 1) * plan.rows)
            for start in range(number * plan.rows, stop, BLOCK):
                block = vectors[start : min(stop, start + BLOCK)]
                made.add(block, np.arange(start, start + len(block)), new=True)
            write_whole(plan.share(number), made.save, shared=True)
    except UserError:
        if held(plan.folder, lock):  # another rank was faster
            return False
        raise
    return True


def _awaited(out: Path, look: Callable[[], T | None], patience_s: float, what: str) -> T:
    """What `look` gives once it gives something. Raises UserError if nobody leads for so long."""
    alone = time.monotonic()
    while (result := look()) is None:
        if held(out.parent, f".{out.name}.lock"):
            alone = time.monotonic()
        elif time.monotonic() - alone > patience_s:
            raise UserError(
                f"no process with --rank 0 has led the build of {out} for {patience_s:.0f} seconds, and {what}; "
                "start rank 0 again, and then this one"
            )
        time.sleep(LOOKED_EVERY_S)
    return result
