"""Every number that people set has bounds, wherever it is set."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from data_pipelines.commands.build import Shards
from data_pipelines.commands.reshard import Reshard
from data_pipelines.commands.show import Sheet
from data_pipelines.commands.stats import Stats
from data_pipelines.commands.verify import Verify
from data_pipelines.filters import kinds
from data_pipelines.sources import Source
from data_pipelines.stream import Stream
from vlp.config import build, component
from vlp.config.bounds import bounds_of
from vlp.config.components import component_names
from vlp.errors import UserError

SEEDS = ("seed", "shuffle")  # any whole number is one
SET_BY_PEOPLE = [
    *(Stream, Shards, Reshard, Sheet, Stats, Verify),
    *kinds().values(),
    *(component(Source, name) for name in component_names(Source)),
]


def numbers(kind: Any, where: str = "") -> Iterator[tuple[str, list[Any]]]:
    """(path, its bounds) of every number in a tree of dataclasses."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        base, bounds = bounds_of(hints[field.name])
        if dataclasses.is_dataclass(base):
            yield from numbers(base, f"{where}{field.name}.")
        elif typing.get_origin(base) in (dict, Mapping):
            value, bounds = bounds_of(typing.get_args(base)[1])
            if value in (int, float):
                yield where + field.name, bounds
        elif base in (int, float):
            yield where + field.name, bounds


@pytest.mark.parametrize("kind", SET_BY_PEOPLE, ids=lambda kind: kind.__name__)
def test_every_number_has_bounds(kind: Any) -> None:
    assert [path for path, bounds in numbers(kind) if not bounds and path not in SEEDS] == []


def test_the_stream_has_numbers_in_every_group() -> None:
    groups = {path.partition(".")[0] for path, _ in numbers(Stream) if "." in path}
    assert groups == {"captions", "decoding", "negatives", "remote", "workers"}


@pytest.mark.parametrize(
    "tree, sentence",
    [
        ({"workers": {"count": -1}}, '"workers.count" is -1, but it should be 0 or more'),
        ({"workers": {"prefetch": 0}}, '"workers.prefetch" is 0, but it should be 1 or more'),
        ({"captions": {"weights": {"en": -0.5}}}, '"captions.weights.en" is -0.5, but it should be 0 or more'),
        ({"captions": {"texts": 0}}, '"captions.texts" is 0'),
        ({"remote": {"request_seconds": 0}}, '"remote.request_seconds" is 0.0, but it should be more than 0'),
        ({"drop_budget": 1.5}, '"drop_budget" is 1.5, but it should be from 0 to 1'),
        ({"mixture": {"a": float("nan")}}, '"mixture.a" is nan, but it should be a finite number'),
    ],
)
def test_a_number_outside_of_its_bounds_is_one_sentence(tree: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        build(Stream, tree)
    assert sentence in str(refusal.value)
