"""Another model as the teacher, which stays as it is: a model folder, or one of open_clip's by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Batch, Embeddings
from vlp.config import COMMON, MAY_CHANGE
from vlp.errors import UserError
from vlp.models import release
from vlp.models.image_transform import ImageTransform
from vlp.teachers import Given, Guide, Teacher
from vlp.training.shared_tokenizer import saved
from vlp.training.teaching import Setting, encoded, size_of, width_of


@dataclass(frozen=True)
class Frozen(Teacher):
    """A trained model. It sees the pictures as the model does, scaled to its own size, and reads the same captions."""

    model: Annotated[str, COMMON, MAY_CHANGE] = ""
    """model folder (RUN/model), or an open_clip name such as ViT-B-32:laion2b_s34b_b79k"""
    trust: Annotated[bool, MAY_CHANGE] = False
    """run code that the model's folder names and that is no part of vlp"""

    def open(self, given: Given) -> Model:
        """The model. Raises UserError if there is none."""
        if not self.model:
            raise UserError(
                "teacher.model is empty; give the folder of a trained model, such as --teacher.model runs/demo/model"
            )
        teacher = release.load(self.model, trust=self.trust)
        return Model(teacher, same=saved(teacher.tokenizer) == saved(given.tokenizer))


class Model(Guide):
    """A model that does not change. Where its tokenizer is another, captions come tokenized for it too."""

    def __init__(self, teacher: release.Release, *, same: bool) -> None:
        """`same`: whether it reads what the run's tokenizer writes."""
        self.encoder, self.transform, self.id = teacher.encoder.requires_grad_(False), teacher.transform, teacher.id
        self.scale = float(teacher.encoder.logit_scale.exp())
        self.tokenizer = None if same else teacher.tokenizer
        self.sample = teacher.tokenizer(["a", "b"])

    def memory(self, model: nn.Module, shards: int) -> int:
        """Its weights: every rank has all of them."""
        return size_of(self.encoder)

    def begin(self, model: nn.Module, setting: Setting) -> None:
        """Go to the run's device."""
        self.setting = setting
        self.encoder.to(setting.device, setting.dtype).eval()
        few = Batch(torch.zeros(2, 3, 1, 1), self.sample.to(setting.device), ("", ""))
        self.width = width_of(self.encoder, few)

    def __call__(self, batch: Batch, e: Embeddings) -> tuple[Tensor, Tensor]:
        """What it makes of the batch, as it is augmented. Raises UserError for pictures that are no pixels any more."""
        if batch.image.dtype != torch.uint8:
            raise UserError(
                f"the pictures come as {batch.image.dtype}, normalised for the model in training, but teacher.model "
                "normalises pictures itself; let the stream give uint8, or embed them before: teacher.name stored"
            )
        text = batch.text if self.tokenizer is None else batch.teacher_text
        assert text is not None  # the stream tokenizes for `tokenizer` too
        parts = [
            encoded(self.encoder, resized(image, self.transform), some, replace(self.setting, rows=0))
            for image, some in zip(self.split(batch.image), self.split(text), strict=True)
        ]
        images, texts = zip(*parts, strict=True)
        return torch.cat(images), torch.cat(texts)

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The rows in the run's chunks: no more pictures than one chunk are there at the teacher's size."""
        return torch.split(rows, self.setting.rows or len(rows))


def resized(image: Tensor, transform: ImageTransform) -> Tensor:
    """Square pictures uint8 [..., 3, H, H] at the size of `transform`, by its filter with antialias, uint8 again."""
    size = transform.size
    if image.shape[-2:] == (size, size):
        return image
    pixels = image.flatten(0, -4).float()
    scaled = F.interpolate(pixels, (size, size), mode=transform.interpolation, antialias=True)
    return scaled.round_().clamp_(0, 255).to(torch.uint8).view(*image.shape[:-2], size, size)
