"""What a run does to the towers of a model before it trains them: locks, adapters, patch dropout."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlp.config.bounds import Decay, Whole
from vlp.errors import UserError
from vlp.models.adapt.lock import lock
from vlp.models.adapt.lora import Lora, add_adapters
from vlp.models.adapt.patch_dropout import drop_patches
from vlp.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class TextSide:
    """What of a tower is trained."""

    lock: bool = False
    """freeze the tower, its `trained_layers` apart"""
    trained_layers: Whole = 0
    """layers at the top that a lock or adapters leave free, the head first (open_clip's unlocked groups)"""
    unlock_after: Whole = 0
    """pairs after which a locked tower is unlocked from its top; 0: it stays locked"""
    unlock_every: Whole = 0
    """pairs between the unlocking of a layer and that of the layer below it; 0: all at once"""
    lora: Lora = field(default_factory=Lora)
    """low-rank adapters"""


@dataclass(frozen=True)
class ImageSide(TextSide):
    """What of the image tower is trained, on how many patches."""

    patch_dropout: Decay = 0.0
    """share of a picture's patches that training leaves out (FLIP: 0.5, 0.75); of ViTs alone"""


@dataclass(frozen=True)
class Towers:
    """What of each tower is trained."""

    image: ImageSide = field(default_factory=ImageSide)
    """the image tower"""
    text: TextSide = field(default_factory=TextSide)
    """the text tower"""

    def __post_init__(self) -> None:
        """Raises UserError for settings that exclude each other."""
        for name, side in self.sides.items():
            if (side.unlock_after or side.unlock_every) and not side.lock:
                raise UserError(
                    f"towers.{name}.unlock_after is set, but the tower is not locked: set towers.{name}.lock"
                )
            if side.unlock_every and not side.unlock_after:
                raise UserError(f"towers.{name}.unlock_every is set without towers.{name}.unlock_after: set both")
            if side.lock and side.lora.rank:
                raise UserError(
                    f"towers.{name} has both lock and lora.rank, but adapters lock their tower themselves: unset one"
                )

    @property
    def sides(self) -> dict[str, TextSide]:
        """image and text."""
        return {"image": self.image, "text": self.text}

    def sentence(self, encoder: DualEncoder) -> str:
        """What of an adapted `encoder` is trained, for people; empty where nothing was asked for."""
        parts = []
        for name, side in self.sides.items():
            count = side.trained_layers
            free = f", its top {count} layer{'' if count == 1 else 's'} apart" if count else ""
            if side.lora.rank:
                parts.append(f"the {name} tower has adapters of rank {side.lora.rank} and is locked{free}")
            elif side.lock:
                until = f" for {side.unlock_after:,} pairs" if side.unlock_after else ""
                parts.append(f"the {name} tower is locked{until}{free}")
        if self.image.patch_dropout:
            parts.append(f"{self.image.patch_dropout:.0%} of the patches are left out in training")
        if not parts:
            return ""
        sizes = [(p.numel(), p.requires_grad) for p in encoder.parameters()]
        trained, whole = sum(n for n, wanted in sizes if wanted), sum(n for n, _ in sizes)
        return f"{'; '.join(parts)}: {trained:,} of {whole:,} weights are trained"

    def adapt(self, encoder: DualEncoder) -> None:
        """Change `encoder` in place; towers that will be unlocked stay trainable, `vlp.training.unlocking` holds them.

        Raises UserError for an adapter's target that matches nothing, and for patch dropout of a tower without patches.
        """
        if self.image.patch_dropout:
            drop_patches(encoder.image_tower, self.image.patch_dropout)
        for name, side in self.sides.items():
            tower = encoder.image_tower if name == "image" else encoder.text_tower
            if side.lock and not side.unlock_after:
                lock(encoder, tower, trained=side.trained_layers)
            if side.lora.rank:
                free = lock(encoder, tower, trained=side.trained_layers)
                add_adapters(tower, side.lora, f"towers.{name}.lora")
                for layer in free:
                    for parameter in layer.parameters():
                        parameter.requires_grad_(True)
