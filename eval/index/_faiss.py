"""How FAISS's indexes are handled here, whatever their kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError
from vlp.legible import plain

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def with_ids(faiss_index: Any) -> Any:
    """A kind that numbers its vectors itself, made to keep the caller's ids.

    Not for IVF: it keeps ids on its own, and inside an id map its removals shift the ids of all that come after.
    """
    import faiss

    return faiss.IndexIDMap(faiss_index)


def reserved(codes: Any, size: int) -> None:
    """Give a vector of FAISS's room for so many elements; what is in it stays."""
    now = codes.size()
    if size > now:
        codes.resize(size)
        codes.resize(now)


@contextlib.contextmanager
def in_words(kind: object) -> Iterator[None]:
    """A context in which an error of FAISS is one sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        name = type(kind).__name__.lower()
        raise UserError(f"FAISS cannot build an index of kind {name} of these vectors ({plain(error)})") from None


def removed_file(path: Path) -> Path:
    """Where `Vectors.save` writes the ids that are left out of the hits."""
    return path.with_name(path.name + ".removed.npy")
