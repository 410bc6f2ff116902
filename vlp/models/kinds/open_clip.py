"""Any model of open_clip, by its name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from vlp.config import COMMON
from vlp.config.bounds import Whole
from vlp.errors import UserError
from vlp.models import Model
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image_transform import ImageTransform
from vlp.models.tokenizer import OpenClipTokenizer, Tokenizer


@dataclass(frozen=True)
class OpenClip(Model):
    """A model of open_clip: architecture, tokenizer and preprocessing as open_clip pairs them."""

    architecture: Annotated[str, COMMON] = "ViT-B-32"
    """open_clip's name of the model"""
    pretrained: Annotated[str, COMMON] = ""
    """open_clip's tag of the weights, or a checkpoint file; empty: random weights"""
    image_size: Annotated[Whole, COMMON] = 0
    """side of the pictures, pixels; 0: the architecture's own"""

    def _config(self) -> dict[str, object]:
        import open_clip

        known = open_clip.list_models()
        if self.architecture not in known and not self.architecture.startswith(("hf-hub:", "local-dir:")):
            from vlp.config import did_you_mean

            raise UserError(f'open_clip has no model "{self.architecture}"{did_you_mean(self.architecture, known)}')
        return open_clip.get_model_config(self.architecture) or {}

    def tokenizer(self, captions: Iterable[str]) -> Tokenizer:
        """open_clip's tokenizer of the architecture; `captions` are not read."""
        self._config()
        return OpenClipTokenizer(self.architecture)

    def transform(self) -> ImageTransform:
        """open_clip's evaluation preprocessing."""
        vision = self._config().get("vision_cfg", {})
        size = self.image_size or (vision.get("image_size", 224) if isinstance(vision, dict) else 224)
        squash = "SigLIP" in self.architecture
        return ImageTransform(size[0] if isinstance(size, tuple | list) else size, "squash" if squash else "shortest")

    def start(self, encoder: DualEncoder, *, scale: float, bias: float) -> None:
        """Scale and bias of the objective for new weights; pretrained ones keep theirs."""
        if not self.pretrained:
            encoder.start(scale=scale, bias=bias)

    def build(self, vocab: int, *, weights: bool = True) -> DualEncoder:
        """The dual encoder, with `pretrained` weights if `weights`.

        Raises UserError for an unknown architecture, and if the named weights cannot be had.
        """
        import open_clip

        self._config()
        wanted = bool(weights and self.pretrained)
        try:
            with _without_warnings():
                model = open_clip.create_model(
                    self.architecture,
                    self.pretrained if wanted else None,
                    load_weights=wanted,
                    force_custom_text=True,
                    force_image_size=self.image_size or None,
                    require_pretrained=wanted,
                )
        except (RuntimeError, OSError) as error:
            part = f'the weights "{self.pretrained}"' if wanted else "a part"
            what = f'{part} of open_clip\'s "{self.architecture}"'
            raise UserError(f"{what} cannot be had: {str(error).splitlines()[0]}") from error
        for tower in (model.visual, model.text):
            if hasattr(tower, "output_tokens"):  # CoCa's towers also give every token, for its decoder
                tower.output_tokens = False
        seen = open_clip.get_model_preprocess_cfg(model)
        bias = model.logit_bias
        out = DualEncoder(
            model.visual,
            model.text,
            mean=seen["mean"],
            std=seen["std"],
            scale=float(model.logit_scale.detach().exp()),
            bias=float(bias.detach()) if bias is not None else 0.0,
        )
        return out


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep open_clip from warning of random weights, which are what was asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
