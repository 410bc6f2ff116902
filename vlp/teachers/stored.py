"""Vectors that were made before as the teacher: a folder that `vlp embed` wrote, in which samples are found by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Embeddings
from vlp.config import COMMON, MAY_CHANGE
from vlp.errors import UserError
from vlp.teachers import Given, Guide, Teacher, Vectors
from vlp.training.teaching import Setting


@dataclass(frozen=True)
class Stored(Teacher):
    """Vectors of the pictures as they are, without augmentation, and of each sample's first caption.

    A folder of one kind, pictures or texts, says the same of both.
    """

    folder: Annotated[str, COMMON, MAY_CHANGE] = ""
    """what `vlp embed` wrote, of all shards of the run"""

    def open(self, given: Given) -> Looked:
        """The vectors. Raises UserError for a folder that is none, or that lacks samples of the run."""
        if not self.folder:
            raise UserError("teacher.folder is empty; give a folder that `vlp embed MODEL SHARDS FOLDER` wrote")
        return Looked(given.vectors(Path(self.folder)))


class Looked(Guide):
    """Vectors that are looked up, by shard and key."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors, self.width, self.id = vectors, vectors.width, vectors.id

    def begin(self, model: nn.Module, setting: Setting) -> None:
        """Know where they are wanted."""
        self.setting = setting

    def __call__(self, batch: Batch, e: Embeddings) -> tuple[Tensor, Tensor]:
        """Both vectors of each sample. Raises UserError for one that has none."""
        shards = batch.shards or ("",) * len(batch)
        image, text = (torch.from_numpy(v) for v in self.vectors.of(shards, batch.keys))
        device, dtype = self.setting.device, self.setting.dtype
        return image.to(device, dtype), text.to(device, dtype)
