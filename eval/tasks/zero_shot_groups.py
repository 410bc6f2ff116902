"""Zero-shot classification of the worst group (a region, an income), and F1, where a dataset asks for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.embeddings.split import EmbeddedSplit, Split
from eval.metrics.groups import Statistic, f1_macro, measured, worst_group
from eval.tasks import Measured, Presentation, Task
from eval.tasks.zero_shot import ZeroShot

F1 = "f1_macro"


@dataclass(frozen=True, kw_only=True)
class ZeroShotGroups(Task):
    """Accuracy of the group that it is worst for, by the groups of the dataset; F1 where that stands for it."""

    label: str = ""
    """metadata field of the class, as in zero_shot"""
    classes: str = ""
    """list of classes, as in zero_shot"""
    templates: str = ""
    """set of templates, as in zero_shot"""

    @property
    def primary(self) -> str:
        """Accuracy at 1 of the worst group."""
        return f"{self._zero_shot.primary}_worst_group"

    @property
    def _zero_shot(self) -> ZeroShot:
        return ZeroShot(label=self.label, classes=self.classes, templates=self.templates, seed=self.seed)

    def unfit(self, split: Split) -> str:
        """Its protocol asks for neither."""
        if not split.protocol.groups and split.protocol.metric != F1:
            return "its protocol names no groups"
        return self._zero_shot.unfit(split)

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LABEL/acc1_worst_group`, `LABEL/acc5_worst_group` and `LABEL/f1_macro`, as far as the protocol asks."""
        result: dict[str, Measured] = {}
        protocol = split.protocol
        place = {key: row for row, key in enumerate(split.keys)}
        for name, one in self._zero_shot.measure(split).items():
            field, _, metric = name.rpartition("/")
            assert one.queries_by is not None
            assert one.per_query is not None
            if metric == "acc1" and protocol.metric == F1:
                labels, said = (np.array(one.detail[key], np.int64) for key in ("labels", "predicted"))
                words = Presentation((f"zero-shot by {field}",), "F1", "F1: of each class, averaged over the classes.")
                result[f"{field}/{F1}"] = self._measured(one, f1_macro(labels, said), len(labels), words)
            if metric in ("acc1", "acc5") and protocol.groups:
                rows = [place[key] for key in one.queries_by]
                groups = np.array([int(split.samples[row].metadata[protocol.groups]) for row in rows], np.int64)
                kept = ~np.isin(groups, protocol.except_groups)
                label = (f"zero-shot by {field}, worst {protocol.groups}",)
                words = Presentation(label, f"acc@{metric[3:]}", "Worst: the group for which it is least.")
                statistic = worst_group(one.per_query[kept], groups[kept])
                result[f"{name}_worst_group"] = self._measured(one, statistic, int(kept.sum()), words)
        return result

    def _measured(self, one: Measured, statistic: Statistic, queries: int, words: Presentation) -> Measured:
        value, bounds = measured(statistic, queries, seed=self.seed)
        return Measured(value, bounds, queries, one.candidates, None, words)
