"""What can be said of a configuration's field beside its type."""

from __future__ import annotations

import enum


class Mark(enum.Enum):
    """What can be said of a field beside its type, in `Annotated`."""

    MAY_CHANGE = "changes no batch and no weight, or only their rounding: a run may go on with another value"
    COMMON = "people set it often: --help shows it first"


MAY_CHANGE, COMMON = Mark.MAY_CHANGE, Mark.COMMON
