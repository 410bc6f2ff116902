"""Any image tower beside any text tower."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

from vlp.config import COMMON
from vlp.config.bounds import Count, Positive, Share
from vlp.models import ImageTower, Model, TextTower
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image.timm import Timm
from vlp.models.image_transform import CLIP_MEAN, CLIP_STD, ImageTransform
from vlp.models.text.transformer import Transformer
from vlp.models.tokenizer import Bpe, Tokenizer


@dataclass(frozen=True)
class TwoTowers(Model):
    """An image tower, a text tower and a BPE trained on the captions."""

    width: Annotated[Count, COMMON] = 192
    """width of the shared space"""
    image_size: Annotated[Count, COMMON] = 64
    """side of the pictures, pixels"""
    image: ImageTower = field(default_factory=Timm)
    """the image tower"""
    text: TextTower = field(default_factory=Transformer)
    """the text tower"""
    bpe: Bpe = field(default_factory=Bpe)
    """the tokenizer"""
    temperature: Positive | None = None
    """temperature at the start; the logit scale is its inverse; none: as the objective's paper starts (CLIP: 0.07)"""
    bias: float | None = None
    """logit bias at the start; none: as the objective's paper starts (CLIP: 0, SigLIP: -10)"""
    mean: tuple[Share, Share, Share] = CLIP_MEAN
    """mean of the pixels, of 1"""
    std: tuple[Positive, Positive, Positive] = CLIP_STD
    """standard deviation of the pixels, of 1"""
    lock_image: bool = False
    """freeze the image tower (LiT); one that has a pretrained `backbone` and a head keeps training the head"""

    def tokenizer(self, captions: Iterable[str]) -> Tokenizer:
        """A BPE trained on `captions`."""
        return self.bpe.train(captions)

    def transform(self) -> ImageTransform:
        """Shortest side to `image_size`, centre crop."""
        return ImageTransform(self.image_size)

    def start(self, encoder: DualEncoder, *, scale: float, bias: float) -> None:
        """Scale and bias of the objective, where `temperature` and `bias` are not set."""
        encoder.start(scale=None if self.temperature else scale, bias=bias if self.bias is None else None)

    def build(self, vocab: int, *, weights: bool = True) -> DualEncoder:
        """The dual encoder; `weights` matters to towers with pretrained weights alone."""
        model = DualEncoder(
            self.image.build(self.width, self.image_size),
            self.text.build(self.width, vocab, self.bpe.context),
            mean=self.mean,
            std=self.std,
            scale=1 / (self.temperature or 0.07),
            bias=self.bias or 0.0,
        )
        if self.lock_image:
            model.lock(getattr(model.image_tower, "backbone", model.image_tower))
        return model
