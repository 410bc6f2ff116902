"""What two parts of one run must share, and the first thing that they do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp.errors import UserError


def refuse_difference(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError at the first key, in alphabetical order, whose value the two runs do not share."""
    for key in sorted({*found, *wanted}):
        old, new = found.get(key, "nothing"), wanted.get(key, "nothing")
        if old != new:
            raise UserError(
                f"{path} belongs to another run: there {key} is {old}, here it is {new}; "
                "choose another run folder, or set training.resume to false to start over in this one"
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
