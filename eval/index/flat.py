"""Every vector compared with every query: exact, and the oracle of the other kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from eval.index import Index, reserved, with_ids


@dataclass(frozen=True)
class Flat(Index):
    """Exact search; 4 bytes per dimension and vector. Good up to some hundred thousand vectors."""

    exact: ClassVar[bool] = True

    def create(self, dim: int) -> Any:
        """IndexFlatIP."""
        import faiss

        return with_ids(faiss.IndexFlatIP(dim))

    def reserve(self, faiss_index: Any, count: int) -> None:
        """All vectors."""
        import faiss

        own = faiss.downcast_index(faiss_index.index)
        reserved(own.codes, count * own.code_size)
        reserved(faiss_index.id_map, count)

    def choices(self, count: int, dim: int) -> list[Index]:
        """Itself."""
        return [self]
