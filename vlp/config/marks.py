"""Marks of configuration fields, beside their types."""

from __future__ import annotations

import enum


class Mark(enum.Enum):
    """A mark of a field, in `Annotated` beside its type."""

    MAY_CHANGE = "changes no batch and no weight, or only their rounding: a run may go on with another value"
    COMMON = "people set it often: --help shows it first"


MAY_CHANGE, COMMON = Mark.MAY_CHANGE, Mark.COMMON
