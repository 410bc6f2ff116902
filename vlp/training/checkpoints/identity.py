"""What two parts of one run must share, and the first thing that they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlp.errors import UserError

SETTINGS = ("training.optimizer.", "training.schedule.", "training.guard.", "training.clip", "training.samples")
"""What a run that is taken up from its last good checkpoint, or extended, may change: the step and the budget."""


Identity = Mapping[str, Any]


def refuse_difference(
    path: str, saved: Identity, wanted: Identity, *, settings: bool = True, defaults: Identity | None = None
) -> None:
    """Raise UserError at the first key, in alphabetical order, whose value the two runs do not share.

    `settings`: whether SETTINGS count, the optimizer's name apart. `defaults`: of settings that an earlier version did
    not have; it did what they say.
    """
    for key in sorted({*saved, *wanted}):
        old, new = saved.get(key, (defaults or {}).get(key, "nothing")), wanted.get(key, "nothing")
        free = not settings and key.startswith(SETTINGS) and key != "training.optimizer.name"
        if old != new and not free:
            raise UserError(
                f"{path} belongs to another run: there {key} is {old}, here it is {new}; "
                "choose another run folder, or give --training.no-resume to start over in this one"
            )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys; sequences become text."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out.update(flat(value, f"{path}."))
        else:
            out[path] = value if isinstance(value, str | int | float | bool) else str(value)
    return out
