"""Every number that can be set has its bounds, and what lies outside is refused with the name of its key."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Lt

import train
from vlp import config
from vlp.config.bounds import Count, Positive, Share, bounds_of, check
from vlp.config.components import component, component_names
from vlp.errors import UserError

NO_BOUNDS = {"bias"}  # a logit bias may be any finite number


def classes(cls: Any, seen: set[Any]) -> Iterator[Any]:
    """Every dataclass that a configuration of `cls` can hold, all components of its component fields among them."""
    if cls in seen or not dataclasses.is_dataclass(cls):
        return
    seen.add(cls)
    if "component_package" in vars(cls):
        for name in component_names(cls):
            yield from classes(component(cls, name), seen)
        return
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for inner in (hint, *typing.get_args(hint)):
            yield from classes(inner, seen)


def numbers(hint: Any) -> Iterator[list[Any]]:
    """The bounds of each number that a field of this type holds."""
    base, bounds = bounds_of(hint)
    if base in (int, float):
        yield bounds
    elif typing.get_origin(base) in (tuple, dict, Mapping):
        for inner in typing.get_args(base):
            yield from numbers(inner)


@pytest.mark.parametrize("cls", list(classes(train.RunConfig, set())), ids=lambda c: c.__name__)
def test_every_number_has_bounds(cls: Any) -> None:
    hints = typing.get_type_hints(cls, include_extras=True)
    for f in dataclasses.fields(cls):
        if f.name not in NO_BOUNDS:
            assert all(numbers(hints[f.name])), f"{cls.__name__}.{f.name} is a number without bounds"


@dataclass(frozen=True)
class Inner:
    rate: Positive = 0.5
    """a rate"""
    shares: tuple[Share, Share] = (0.0, 1.0)
    """two shares"""
    weights: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    """free keys"""
    perhaps: Count | None = None
    """a number, or none"""


@dataclass(frozen=True)
class Outer:
    batch: Count = 1
    """a count"""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.0
    """a decay"""
    inner: Inner = field(default_factory=Inner)
    """a table"""


@pytest.mark.parametrize(
    "tree, sentence",
    [
        ({"batch": 0}, '"batch" is 0, but it should be 1 or more'),
        ({"decay": 1.0}, '"decay" is 1.0, but it should be 0 or more and below 1'),
        ({"inner": {"rate": 0.0}}, '"inner.rate" is 0.0, but it should be more than 0'),
        ({"inner": {"rate": math.inf}}, '"inner.rate" is inf, but it should be a finite number'),
        ({"inner": {"shares": [0.2, 1.5]}}, '"inner.shares[1]" is 1.5, but it should be from 0 to 1'),
        ({"inner": {"weights": {"en": -1.0}}}, '"inner.weights.en" is -1.0, but it should be 0 or more'),
        ({"inner": {"perhaps": 0}}, '"inner.perhaps" is 0, but it should be 1 or more'),
    ],
)
def test_a_preset_outside_of_them_is_refused(tree: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        config.build(Outer, tree)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "flags", [("--batch", "0"), ("--inner.rate", "nan"), ("--inner.shares", "2", "1"), ("--inner.weights.fr", "-1")]
)
def test_a_flag_outside_of_them_is_refused(flags: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="but it should be"):
        config.parse(Outer, flags, "prog", "test")


def test_what_lies_inside_passes() -> None:
    check(Outer(3, 0.9, Inner(2.0, (0.0, 1.0), {"en": 0.0}, 7)))


def test_each_room_is_looked_at() -> None:
    """The walk above reaches the components of every room of training."""
    names = {c.__module__ for c in classes(train.RunConfig, set())}
    for package in (
        "vlp.losses",
        "vlp.augment",
        "vlp.training.optimizers",
        "vlp.training.schedules",
        "vlp.models.image",
    ):
        modules = {f"{package}.{m.name}" for m in pkgutil.iter_modules(importlib.import_module(package).__path__)}
        assert names >= {m for m in modules if not m.rpartition(".")[2].startswith("_")}
