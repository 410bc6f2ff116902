"""Bounds of numbers: declared beside the field that holds it, checked wherever a configuration is read.

lr: Annotated[float, Gt(0)] = 1e-3      # bounds of annotated_types; Count, Share and so on are short for usual ones
"""

from __future__ import annotations

import dataclasses
import math
import operator
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt

from vlp.errors import UserError

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
AtLeastZero = Annotated[float, Ge(0)]
Decay = Annotated[float, Ge(0), Lt(1)]
"""What is kept of a running mean at each step."""
COMPARED: dict[type, tuple[Any, str]] = {
    Ge: (operator.ge, "ge"),
    Gt: (operator.gt, "gt"),
    Le: (operator.le, "le"),
    Lt: (operator.lt, "lt"),
}


def check(instance: Any, where: str = "") -> None:
    """Raise UserError for the first number in the tree of dataclasses `instance` that lies outside of its bounds."""
    hints = typing.get_type_hints(type(instance), include_extras=True)
    for field in dataclasses.fields(instance):
        path = f"{where}.{field.name}" if where else field.name
        _check(getattr(instance, field.name), hints[field.name], path)


def _check(value: Any, hint: Any, path: str) -> None:
    base, bounds = bounds_of(hint)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        check(value, path)
    elif isinstance(value, Mapping):
        inner = (typing.get_args(base) or (Any, Any))[1]
        for key, one in value.items():
            _check(one, inner, f"{path}.{key}")
    elif isinstance(value, tuple | list):
        args = typing.get_args(base)
        inners = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        for i, (one, inner) in enumerate(zip(value, inners, strict=False)):
            _check(one, inner, f"{path}[{i}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UserError(f'"{path}" is {value}, but it should be a finite number')
        if not all(_holds(value, bound) for bound in bounds):
            raise UserError(f'"{path}" is {value}, but it should be {in_words(bounds)}')


def bounds_of(hint: Any) -> tuple[Any, list[BaseMetadata]]:
    """(the type without its annotations, the bounds among them); of a union the part that is not None counts."""
    bounds: list[BaseMetadata] = []
    while typing.get_origin(hint) is Annotated:
        base, *extras = typing.get_args(hint)
        bounds += [extra for extra in extras if isinstance(extra, Ge | Gt | Le | Lt)]
        hint = base
    options = [a for a in typing.get_args(hint) if a is not type(None)]
    if type(None) in typing.get_args(hint) and len(options) == 1:
        inner, more = bounds_of(options[0])
        return inner, bounds + more
    return hint, bounds


def _holds(value: float, bound: Any) -> bool:
    compare, name = COMPARED[type(bound)]
    return bool(compare(value, getattr(bound, name)))


def in_words(bounds: list[BaseMetadata]) -> str:
    """The bounds in words.

    >>> in_words([Ge(0), Le(1)]), in_words([Gt(0)]), in_words([Ge(1)]), in_words([Ge(0), Lt(1)])
    ('from 0 to 1', 'more than 0', '1 or more', '0 or more and below 1')
    """
    low = [b.ge for b in bounds if isinstance(b, Ge)]
    high = [b.le for b in bounds if isinstance(b, Le)]
    if low and high:
        return f"from {low[0]} to {high[0]}"
    words = [f"{b.ge} or more" for b in bounds if isinstance(b, Ge)]
    words += [f"more than {b.gt}" for b in bounds if isinstance(b, Gt)]
    words += [f"at most {b.le}" for b in bounds if isinstance(b, Le)]
    words += [f"below {b.lt}" for b in bounds if isinstance(b, Lt)]
    return " and ".join(words)
