"""Every vector compared with every query: exact, and the oracle of the other kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from eval.index import Index, with_ids


@dataclass(frozen=True)
class Flat(Index):
    """Exact search; 4 bytes per dimension and vector. Good up to some hundred thousand vectors."""

    exact: ClassVar[bool] = True

    def create(self, dim: int) -> Any:
        """IndexFlatIP."""
        import faiss

        return with_ids(faiss.IndexFlatIP(dim))

    def choices(self, count: int, dim: int) -> list[Index]:
        """Itself."""
        return [self]
