"""Robustness: what is left of another task's metric when pictures are corrupted (Hendrycks and Dietterich 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from torch import Tensor

from eval.corruptions import STRENGTHS, Corruption
from eval.embeddings.read_again import pixels_again
from eval.embeddings.split import EmbeddedSplit, Split
from eval.metrics.bootstrap import ratio_interval
from eval.tasks import Measured, Presentation, Task, mean_of
from eval.tasks.zero_shot import ZeroShot
from vlp.config import to_tree
from vlp.config.components import component, component_names
from vlp.errors import UserError
from vlp.models.release import Release


@dataclass(frozen=True, kw_only=True)
class Robustness(Task):
    """A metric on corrupted pictures: of each corruption, over all of them, and relative to clean pictures."""

    of: Task = field(default_factory=ZeroShot)
    """the task that is measured, such as zero_shot or retrieval"""
    metric: str = ""
    """which of its metrics; empty: the first that stands for a row of its table, as acc1 does"""
    corruptions: tuple[str, ...] = ()
    """files of eval/corruptions; none: all of them"""
    strengths: tuple[Annotated[int, Ge(1), Le(5)], ...] = STRENGTHS
    """how strong, 1 to 5; the mean over them is taken"""

    @property
    def primary(self) -> str:
        """The mean over corruptions and strengths."""
        return f"robustness/{self.metric or self.of.primary}/corrupted"

    def unfit(self, split: Split) -> str:
        """What the other task says."""
        return self.of.unfit(split)

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`robustness/METRIC/clean`, `.../corrupted` (the mean over all), `.../relative` (corrupted by clean), and
        `.../CORRUPTION`, the mean over its strengths, each of which stands in the detail.

        Raises UserError for an unknown corruption or metric, and as the other task does.
        """
        split = EmbeddedSplit.of(split, TextsOnce.of(split.release), [split.image])
        kinds = {name: component(Corruption, name)() for name in self.corruptions or component_names(Corruption)}
        clean_name, clean = self._of(split, self.of.measure(split))
        each = {name: self._corrupted(split, kind, clean_name, clean) for name, kind in kinds.items()}
        own, label = f"robustness/{clean_name}", (f"{clean_name}, pictures corrupted",)
        result = {
            f"{own}/clean": replace(clean, presentation=_words((f"{clean_name}, pictures as they are",), "clean")),
            f"{own}/corrupted": self._mean(clean, list(each.values()), _words(label, "all", primary=True)),
        }
        result[f"{own}/relative"] = self._relative(result[f"{own}/corrupted"], clean, label)
        for name, some in each.items():
            measured = self._mean(clean, [some], _words((*label, name.replace("_", " ")), "mean of strengths"))
            detail = {"strengths": list(self.strengths), "values": some.mean(axis=1).tolist()}
            result[f"{own}/{name}"] = replace(measured, detail=detail)
        return result

    def settings(self) -> dict[str, Any]:
        """The fields, and those of the other task."""
        return {**super().settings(), "of": {"task": type(self.of).__module__, **to_tree(self.of)}}

    def _of(self, split: EmbeddedSplit, measured: Mapping[str, Measured]) -> tuple[str, Measured]:
        """The metric of the other task that is looked at, by its name."""
        fit = {name: one for name, one in measured.items() if one.per_query is not None and one.groups is None}
        name = self.metric or next((name for name, one in fit.items() if one.presentation.primary), "")
        if name not in fit:
            raise UserError(
                f'"{name}" is no metric of {split.spec} that is a mean over queries; give metric one of: '
                f"{', '.join(fit) or 'none'}"
            )
        return name, fit[name]

    def _corrupted(self, split: EmbeddedSplit, kind: Corruption, name: str, clean: Measured) -> NDArray[np.float64]:
        """[S, Q] the value of each query at each strength."""
        vectors = list(corrupted_vectors(split, kind, self.strengths, seed=self.seed))
        values = []
        for image in vectors:
            other = EmbeddedSplit.of(split, split.release, [image])
            measured = self.of.measure(other)[name]
            if measured.queries_by != clean.queries_by or measured.per_query is None:
                raise UserError(f'the queries of "{name}" on {split.spec} are others when pictures are corrupted')
            values.append(measured.per_query)
        return np.stack(values)

    def _mean(self, clean: Measured, each: list[NDArray[np.float64]], words: Presentation) -> Measured:
        return mean_of(
            np.concatenate(each).mean(axis=0),
            clean.queries_by or (),
            candidates=clean.candidates,
            chance=clean.chance,
            seed=self.seed,
            unit=clean.unit,
            better=clean.better,
            presentation=words,
        )

    def _relative(self, corrupted: Measured, clean: Measured, label: tuple[str, ...]) -> Measured:
        explains = "Relative: the mean over all corruptions, divided by the value on pictures as they are."
        above, below = np.asarray(corrupted.per_query), np.asarray(clean.per_query)
        return Measured(
            value=corrupted.value / clean.value if clean.value else 0.0,
            interval=ratio_interval(above, below, seed=self.seed) if clean.value else (0.0, 0.0),
            queries=clean.queries,
            candidates=clean.candidates,
            chance=None,
            presentation=Presentation(label, "relative", explains),
            unit="score",
        )


@dataclass(frozen=True)
class TextsOnce(Release):
    """A model that embeds the same texts once, however many times it is asked."""

    model: Release
    kept: dict[tuple[str, ...], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: Release) -> TextsOnce:
        """The same model."""
        return cls(model.encoder, model.tokenizer, model.transform, model.id, model.name, model, config=model.config)

    def embed_texts(self, texts: str | Sequence[str], batch: int = 512) -> Tensor:
        """As the model's."""
        some = (texts,) if isinstance(texts, str) else tuple(texts)
        if some not in self.kept:
            self.kept[some] = self.model.embed_texts(some, batch)
        return self.kept[some]


def _words(label: tuple[str, ...], measure: str, *, primary: bool = False) -> Presentation:
    explains = "Corrupted: the mean over common corruptions of the pictures, at five strengths unless said otherwise."
    return Presentation(label, measure, explains, primary=primary)


def corrupted_vectors(
    split: EmbeddedSplit, kind: Corruption, strengths: tuple[int, ...], *, seed: int
) -> Iterator[NDArray[np.float32]]:
    """[N, D] of the pictures at each strength; the pictures are read once."""
    made = [np.empty_like(split.image) for _ in strengths]
    for rows, pixels in pixels_again(split):
        keys = split.keys[rows]
        for image, strength in zip(made, strengths, strict=True):
            some = [kind(one, strength, key=key, seed=seed) for one, key in zip(pixels, keys, strict=True)]
            image[rows] = np.asarray(split.release.embed_pixels(torch.stack(some)), np.float32)
    yield from made
