"""Any image tower beside any text tower."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vlp.models import ImageTower, Model, TextTower
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image.timm import Timm
from vlp.models.image_transform import CLIP_MEAN, CLIP_STD, ImageTransform
from vlp.models.text.transformer import Transformer
from vlp.models.tokenizer import Bpe, Tokenizer


@dataclass(frozen=True)
class TwoTowers(Model):
    """An image tower, a text tower and a BPE trained on the captions."""

    width: int = 192
    """width of the shared space"""
    image_size: int = 64
    """side of the pictures, pixels"""
    image: ImageTower = field(default_factory=Timm)
    """the image tower"""
    text: TextTower = field(default_factory=Transformer)
    """the text tower"""
    bpe: Bpe = field(default_factory=Bpe)
    """the tokenizer"""
    temperature: float = 0.07
    """temperature at the start; the logit scale is its inverse"""
    bias: float = 0.0
    """logit bias at the start (SigLIP: -10)"""
    mean: tuple[float, float, float] = CLIP_MEAN
    """mean of the pixels, of 1"""
    std: tuple[float, float, float] = CLIP_STD
    """standard deviation of the pixels, of 1"""
    lock_image: bool = False
    """freeze the image tower (LiT); one that has a pretrained `backbone` and a head keeps training the head"""

    def tokenizer(self, captions: Iterable[str]) -> Tokenizer:
        """A BPE trained on `captions`."""
        return self.bpe.train(captions)

    def transform(self) -> ImageTransform:
        """Shortest side to `image_size`, centre crop."""
        return ImageTransform(self.image_size)

    def build(self, vocab: int, *, weights: bool = True) -> DualEncoder:
        """The dual encoder; `weights` matters to towers with pretrained weights alone."""
        model = DualEncoder(
            self.image.build(self.width, self.image_size),
            self.text.build(self.width, vocab, self.bpe.context),
            mean=self.mean,
            std=self.std,
            scale=1 / self.temperature,
            bias=self.bias,
        )
        if self.lock_image:
            model.lock(getattr(model.image_tower, "backbone", model.image_tower))
        return model
