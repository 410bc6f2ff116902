"""What kinds share whose lists of cells may stay on the disk (eval/index/_lists.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from eval.index import Index
from eval.index._cells import Celled


@dataclass(frozen=True)
class ListsOnDisk(Celled):
    """Cells whose lists may stay on the disk."""

    on_disk: bool = False
    """leave the lists on the disk: neither building nor searching then needs the index in memory"""

    def lists_on_disk(self) -> bool:
        """As configured."""
        return self.on_disk

    def in_memory(self) -> Index:
        """Not on disk."""
        return replace(self, on_disk=False)

    def can_remove(self) -> bool:
        """A file, which versions share, is never written to."""
        return not self.on_disk
