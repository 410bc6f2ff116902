"""Vectors of a version -> its index: trained on a sample, filled block by block, going on where a killed one was."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.index import Index, Vectors
from eval.search.parts import BLOCK
from vlp.errors import UserError
from vlp.files import write_whole

SAVED_EVERY_S = 120.0


def filled(kind: Index, folder: Path, vectors: NDArray[np.float32], *, saved_every_s: float = SAVED_EVERY_S) -> Vectors:
    """An index of kind `kind` of `vectors` [N, D], whose ids are the numbers of their rows.

    One block is in memory beside it. How far it is is kept in `folder` every so many seconds. Raises UserError if there
    are too few vectors, or if they do not fit the kind.
    """
    kind.check(len(vectors))
    made, done = _begun(kind, folder)
    if made is None:
        made = kind.empty(vectors.shape[1])
        made.train(sample(vectors, kind.sample_to_train()))
        _keep(made, folder, 0)
    made.reserve(len(vectors))
    saved = time.monotonic()
    for start in range(done, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        made.add(block, np.arange(start, start + len(block)), new=True)
        if time.monotonic() - saved >= saved_every_s and start + BLOCK < len(vectors):
            _keep(made, folder, start + BLOCK)
            saved = time.monotonic()
    return made


def sample(vectors: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """At most `most` of the vectors, drawn evenly (always the same ones), in memory."""
    if len(vectors) <= most:
        return np.array(vectors)
    drawn = np.random.default_rng(0).choice(len(vectors), most, replace=False)
    return np.array(vectors[np.sort(drawn)])


def _keep(made: Vectors, folder: Path, done: int) -> None:
    write_whole(folder / f"filled-{done}.faiss", made.save)
    for other in folder.glob("filled-*.faiss"):
        if other.name != f"filled-{done}.faiss":
            other.unlink()


def _begun(kind: Index, folder: Path) -> tuple[Vectors | None, int]:
    """The index that was kept last, and how many vectors it has; (None, 0) if there is none that can be read."""
    kept = sorted((int(path.stem.partition("-")[2]), path) for path in folder.glob("filled-*.faiss"))
    for done, path in reversed(kept):
        try:
            made = kind.load(path)
        except UserError:
            continue
        if len(made) == done:
            return made, done
    return None, 0
