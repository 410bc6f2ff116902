"""Towers and dual encoders: `Model`, `ImageTower` and `TextTower` are the bases that presets choose from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import nn

if TYPE_CHECKING:
    from vlp.models.dual_encoder import DualEncoder
    from vlp.models.image_transform import ImageTransform
    from vlp.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class ImageTower:
    """Configuration of an image tower."""

    component_package: ClassVar[str] = "vlp.models.image"

    def build(self, width: int, size: int) -> nn.Module:
        """A module from normalised pictures [B, 3, size, size] to features [B, width], not normalised."""
        raise NotImplementedError

    def resolved(self) -> ImageTower:
        """The same tower with nothing to look up elsewhere, as a model folder has it."""
        return self


@dataclass(frozen=True)
class TextTower:
    """Configuration of a text tower."""

    component_package: ClassVar[str] = "vlp.models.text"

    def build(self, width: int, vocab: int, context: int) -> nn.Module:
        """A module from token ids [B, L] (0 = padding, L <= context) to features [B, width], not normalised."""
        raise NotImplementedError

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that belongs to the tower's weights; None: any will do."""
        return None

    def resolved(self) -> TextTower:
        """The same tower for a model folder: with nothing in it that building would look up elsewhere."""
        return self


@dataclass(frozen=True)
class Model:
    """Configuration of a dual encoder with its tokenizer and its picture preparation."""

    component_package: ClassVar[str] = "vlp.models.kinds"

    def tokenizer(self, captions: Iterable[str]) -> Tokenizer:
        """The tokenizer, trained on `captions` where the model has none of its own."""
        raise NotImplementedError

    def adopt(self, tokenizer: Tokenizer) -> Tokenizer | None:
        """The tokenizer of another model, for this one; None where this one has a tokenizer of its own."""
        return None

    def transform(self) -> ImageTransform:
        """What turns a picture into the model's input at evaluation."""
        raise NotImplementedError

    def start(self, encoder: DualEncoder, *, scale: float, bias: float) -> None:
        """Give new weights the logit scale and bias that their objective starts from.

        Numbers that the configuration names, or that came with pretrained weights, stay as they are.
        """
        raise NotImplementedError

    def resolved(self) -> Model:
        """The same model for a model folder: with nothing in it that building would look up elsewhere."""
        return self

    def build(self, vocab: int, *, weights: bool = True) -> DualEncoder:
        """A dual encoder for a vocabulary of `vocab` tokens.

        `weights=False` leaves pretrained weights out: the caller loads its own right after.
        """
        raise NotImplementedError
