"""Numbers that others published for a model, and whether ours are the same: `vlp eval MODEL ... --published`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from vlp.config import did_you_mean
from vlp.errors import UserError
from vlp.models import Model
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.release import configuration

TABLE = Path(__file__).with_suffix(".toml")
WAYS = ("image_to_text", "text_to_image")
ROUNDING = 1e-9  # a difference of just the tolerance is within it


@dataclass(frozen=True)
class Comparison:
    """One published number beside ours, percent."""

    name: str  # DATASET/METRIC
    ours: float
    published: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than the tolerance."""
        return abs(self.ours - self.published) <= self.tolerance + ROUNDING

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.ours:.2f} %, published {self.published:.2f} % "
            f"({self.ours - self.published:+.2f}, within {self.tolerance:g} is expected)"
        )


@cache
def table() -> dict[str, Any]:
    """published.toml: `values` by model, their `source`, and the `tolerance` in percentage points."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def expected(model: str, datasets: Collection[str], *, trust: bool = False) -> dict[str, float]:
    """What was published for the model of this name, as `published` says; before it is loaded.

    Raises UserError where nothing was, and for weights that the name uses otherwise than they were trained.
    """
    config = None if Path(model).exists() else configuration(model, trust=trust)  # a folder has weights of its own
    if isinstance(config, OpenClip):
        config.check_origin()
    return published(model, config, datasets)


def published(model: str, config: Model | None, datasets: Collection[str]) -> dict[str, float]:
    """DATASET/METRIC -> percent, of what was published for the model on these datasets, by their short names.

    `model` is what was asked for, as ARCHITECTURE:TAG or hf-hub:OWNER/NAME. Raises UserError where nothing was.
    """
    known: dict[str, dict[str, float]] = table()["values"]
    pairs = config.origin() if isinstance(config, OpenClip) else []
    name = next((f"{a}:{tag}" for a, tag in pairs if f"{a}:{tag}" in known), "")
    if not name:
        near = did_you_mean(model, list(known))
        raise UserError(f'nothing is published of "{model}"{near}; models with published values: {", ".join(known)}')
    values = {key: value for key, value in known[name].items() if key.partition("/")[0] in datasets}
    if not values:
        raise UserError(
            f"nothing is published of {name} on {', '.join(datasets)}; what is there: {', '.join(known[name])}"
        )
    return values


def compare(metrics: Mapping[str, float], values: Mapping[str, float]) -> list[Comparison]:
    """Every published value beside ours. Raises UserError for one that was not measured."""
    return [Comparison(name, 100 * _ours(metrics, name), value, table()["tolerance"]) for name, value in values.items()]


def _ours(metrics: Mapping[str, float], name: str) -> float:
    """The share that we measured for DATASET/METRIC: of the class field or of English, or the mean of both ways.

    >>> _ours({"coco/en/image_to_text/recall@1": 0.5, "coco/en/text_to_image/recall@1": 0.25}, "coco/mean_recall@1")
    0.375
    """
    dataset, _, metric = name.partition("/")
    both = metric.startswith("mean_recall@")
    ends = [f"{way}/{metric.removeprefix('mean_')}" for way in WAYS] if both else [metric]
    some = []
    for end in ends:
        keys = [key for key in metrics if re.fullmatch(f"{re.escape(dataset)}/[^/]+/{re.escape(end)}", key)]
        some.append([key for key in keys if key == f"{dataset}/en/{end}"] or keys)
    if not all(len(keys) == 1 for keys in some):
        have = ", ".join(key for key in metrics if key.startswith(f"{dataset}/"))
        raise UserError(f"{name} is published, but what was measured does not say it alone: {have}")
    return mean(metrics[key] for (key,) in some)
