"""Teachers, one per file: what says of pairs how near they are, for objectives that are guided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from vlp.errors import UserError
from vlp.models.tokenizer import Tokenizer
from vlp.training.teaching import Guide

__all__ = ["Given", "Guide", "Teacher", "Vectors", "refuse_idle"]


class Vectors(Protocol):
    """Vectors that were made before, by sample."""

    width: int
    id: str
    """which vectors they are: another text for others"""

    def of(self, shards: Sequence[str], keys: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Unit vectors float32 of the pictures [n, G] and captions [n, G] of samples, by shard and key.

        Raises UserError for a sample that has none.
        """
        ...


@dataclass(frozen=True)
class Given:
    """What a run has for its teacher."""

    tokenizer: Tokenizer
    """of the run: Batch.text"""
    vectors: Callable[[Path], Vectors]
    """opens a folder of vectors, and refuses one that lacks samples of the run (all ranks take part)"""


@dataclass(frozen=True)
class Teacher:
    """Configuration of a teacher."""

    component_package: ClassVar[str] = "vlp.teachers"

    def open(self, given: Given) -> Guide | None:
        """The teacher at work; None where there is none (all ranks take part).

        Raises UserError for one that is not there, or that cannot teach this run.
        """
        raise NotImplementedError


def refuse_idle(asks: str, teacher: str, needed: Sequence[str]) -> None:
    """Raise UserError for an objective that needs a teacher and has none, and for a teacher that nobody asks."""
    if "guide" in needed and teacher == "none":
        raise UserError(
            f"{asks} needs a teacher: set teacher.name to frozen (with teacher.model), stored (with "
            "teacher.folder), momentum or own"
        )
    if teacher != "none" and "guide" not in needed:
        raise UserError(
            f'teacher.name is "{teacher}", but {asks} asks no teacher: take an objective that does, such '
            "as distill, or leave the teacher out"
        )
