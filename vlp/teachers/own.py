"""The model's own locked tower as the teacher (CWCL, 2309.14580): it knows which pairs are alike before it is trained.

It costs nothing: a locked tower says the same at every step, and its features are there already.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Batch, Embeddings
from vlp.errors import UserError
from vlp.teachers import Given, Guide, Teacher
from vlp.training.teaching import Setting


@dataclass(frozen=True)
class Own(Teacher):
    """A tower that `towers` locks as a whole, or the backbone that `model.lock_image` locks below a head.

    Of a model with one such tower it says the same of both sides of a pair.
    """

    def open(self, given: Given) -> Locked:
        """The towers of the run, as they lie."""
        return Locked()


class Locked(Guide):
    """The features of what is locked."""

    compares = False

    def begin(self, model: nn.Module, setting: Setting) -> None:
        """Find what is locked. Raises UserError if nothing is."""
        self.setting, self.model = setting, model
        self.towers = [side for side in ("image", "text") if locked(getattr(model, f"{side}_tower", None))]
        self.backbone = getattr(getattr(model, "image_tower", None), "backbone", None)
        self.seen: deque[Tensor] = deque()
        if self.towers:
            self.width = setting.width
        elif locked(self.backbone):
            self.backbone.register_forward_hook(self.see)
        else:
            raise UserError(
                "teacher.name is own, but no tower of this model is locked as a whole; set towers.image.lock (without "
                "unlock_after and trained_layers) or model.lock_image, or take another teacher"
            )

    def see(self, part: nn.Module, given: Any, out: Tensor) -> None:
        """Keep what the backbone gives in training, until it is asked for; a copy of it has this hook too."""
        if part is self.backbone and self.model.training:
            self.seen.append(out.detach())

    def __call__(self, batch: Batch, e: Embeddings) -> tuple[Tensor, Tensor]:
        """The embeddings of each locked tower, or the backbone's features as unit vectors; of one alone, twice."""
        if not self.towers:
            features = self.newest(len(batch))
            return features, features
        said = {"image": e.image.detach(), "text": e.text.detach()}
        return said[self.towers[0]], said[self.towers[-1]]

    def newest(self, rows: int) -> Tensor:
        """[rows, G] the features that came by last; those of replays, in the step before, came earlier."""
        parts: list[Tensor] = []
        while sum(map(len, parts)) < rows:
            parts.insert(0, self.seen.pop())
        self.seen.clear()
        return F.normalize(torch.cat(parts).flatten(1).to(self.setting.dtype), dim=-1)


def locked(part: nn.Module | None) -> TypeGuard[nn.Module]:
    """Whether there is something, and nothing of it is trained."""
    return part is not None and not any(p.requires_grad for p in part.parameters())
