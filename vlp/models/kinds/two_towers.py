"""Any image tower beside any text tower."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated

from vlp.config import COMMON
from vlp.config.bounds import Count, Positive, Share
from vlp.models import ImageTower, Model, TextTower
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image.timm import Timm
from vlp.models.image_transform import CLIP_MEAN, CLIP_STD, Grey, ImageTransform, Interpolation, Resize
from vlp.models.text.transformer import Transformer
from vlp.models.tokenizer import Bpe, FastTokenizer, Tokenizer


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
    """the tokenizer, for text towers that have none of their own"""
    temperature: Positive | None = None
    """temperature at the start; the logit scale is its inverse; none: as the objective's paper starts (CLIP: 0.07)"""
    bias: float | None = None
    """logit bias at the start; none: as the objective's paper starts (CLIP: 0, SigLIP: -10)"""
    mean: tuple[Share, Share, Share] = CLIP_MEAN
    """mean of the pixels, of 1"""
    std: tuple[Positive, Positive, Positive] = CLIP_STD
    """standard deviation of the pixels, of 1"""
    resize: Resize = "shortest"
    """shortest: scale the shorter side, crop the centre; squash: both sides; longest: the longer side, fill the rest"""
    interpolation: Interpolation = "bicubic"
    """filter of the resize"""
    fill: Grey = 0
    """grey level beside a picture that is resized by its longest side"""
    lock_image: bool = False
    """freeze the image tower (LiT); one that has a pretrained `backbone` and a head keeps training the head"""

    def tokenizer(self, captions: Iterable[str]) -> Tokenizer:
        """The text tower's own; a BPE trained on `captions`, where it has none."""
        return self.text.tokenizer() or self.bpe.train(captions)

    def adopt(self, tokenizer: Tokenizer) -> Tokenizer | None:
        """Another model's tokenizer instead of a new BPE, where the text tower has none of its own."""
        if not isinstance(tokenizer, FastTokenizer) or self.text.tokenizer() is not None:
            return None
        return tokenizer.cut_at(self.bpe.context)

    def transform(self) -> ImageTransform:
        """What the fields say of pictures."""
        return ImageTransform(self.image_size, self.resize, self.interpolation, self.fill, self.mean, self.std)

    def resolved(self) -> TwoTowers:
        """The same model, its towers without names to look up."""
        return replace(self, image=self.image.resolved(), text=self.text.resolved())

    def start(self, encoder: DualEncoder, *, scale: float, bias: float) -> None:
        """Scale and bias of the objective, where `temperature` and `bias` are not set."""
        encoder.start(scale=None if self.temperature else scale, bias=bias if self.bias is None else None)

    def build(self, vocab: int, *, weights: bool = True) -> DualEncoder:
        """The dual encoder; `weights` matters to towers with pretrained weights alone."""
        image, text = (self.image, self.text) if weights else (self.image.resolved(), self.text.resolved())
        model = DualEncoder(
            image.build(self.width, self.image_size),
            text.build(self.width, vocab, self.bpe.context),
            mean=self.mean,
            std=self.std,
            scale=1 / (self.temperature or 0.07),
            bias=self.bias or 0.0,
        )
        if self.lock_image:
            model.lock(getattr(model.image_tower, "backbone", model.image_tower))
        return model
