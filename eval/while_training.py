"""The tasks of an evaluation as a training run calls them: a model in, numbers out, every few steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from eval.configuration import EvalConfig, gather
from eval.datasets import Dataset
from eval.embeddings.split import KeptSplit
from eval.embeddings.together import Ranks
from eval.tasks import Measured, Task
from vlp.errors import UserError
from vlp.files import write_whole

if TYPE_CHECKING:
    from torch import nn

    from vlp.models.image_transform import ImageTransform
    from vlp.models.release import Release

RECORD = "validation.json"
"""in the folder of a run: how each number of its evaluations is called, for the report"""


@dataclass(frozen=True)
class Validation(EvalConfig):
    """What is measured while a model is trained, every training.eval_every steps."""

    cache_bytes: Annotated[int, Ge(0)] = 1 << 30
    """memory for the decoded pictures of the validation data, bytes in each process; the rest is decoded each time"""

    def evaluations(
        self,
        as_release: Callable[[nn.Module], Release],
        *,
        transform: ImageTransform,
        record: Path | None,
        ranks: Ranks | None = None,
    ) -> dict[str, Callable[[nn.Module], Mapping[str, float]]]:
        """For each shard set a function from the model to the numbers of its tasks; its pictures are embedded once.

        as_release: makes a Release of the model in training; transform: how it prepares its pictures. `record` is where
        labels and units of the numbers are written, None on every rank but one. `ranks`: who embeds; every rank then
        calls the functions alike, and gets the same numbers. Raises UserError at once for data that
        are missing, or that have nothing for a task.
        """
        return {
            name: SplitEvaluation(name, self._kept(dataset, transform, ranks), tasks, as_release, record)
            for name, (dataset, tasks) in self.by_split().items()
        }

    def _kept(self, dataset: Dataset, transform: ImageTransform, ranks: Ranks | None) -> KeptSplit:
        return KeptSplit(dataset, transform, self.cache_bytes, skip_damaged=self.skip_damaged, ranks=ranks)


class SplitEvaluation:
    """Every task of one shard set, measured on the model in training."""

    def __init__(
        self,
        name: str,
        pictures: KeptSplit,
        tasks: Mapping[str, Task],
        as_release: Callable[[nn.Module], Release],
        record: Path | None,
    ) -> None:
        self.name, self.pictures, self.tasks = name, pictures, tasks
        self.as_release, self.record = as_release, record
        for task_name, task in tasks.items():
            if reason := task.unfit(pictures.split):
                raise UserError(f'the task "{task_name}" has nothing to measure on {pictures.split.spec}: {reason}')

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """METRIC -> value, as in a report, where it is called SPLIT/METRIC."""
        split = self.pictures.embedded(self.as_release(model))
        measured = gather(self.name, ((name, task.measure(split)) for name, task in self.tasks.items()))
        if self.record is not None:
            write_words(measured, self.record)
            self.record = None
        return {name.removeprefix(f"{self.name}/"): m.value for name, m in measured.items()}


def write_words(measured: Mapping[str, Measured], path: Path) -> None:
    """Add to the file at `path` how a report names each of these metrics."""
    words = read_words(path)
    for name, m in measured.items():
        p = m.presentation
        words[name] = {"label": list(p.label), "measure": p.measure, "unit": m.unit, "primary": p.primary}
    write_whole(path, json.dumps(words, indent=1, ensure_ascii=False) + "\n")


def read_words(path: Path) -> dict[str, dict[str, object]]:
    """What `write_words` wrote; nothing where there is no such file."""
    words: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return words
