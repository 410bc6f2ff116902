"""Patch dropout (FLIP, 2212.00794): training sees a random part of a picture's patches, and steps cost as much less."""

from __future__ import annotations

from typing import Any

from torch import nn

from vlp.errors import UserError


def drop_patches(tower: nn.Module, share: float) -> None:
    """Have `tower` leave out `share` (0 to 1) of a picture's patches in training; class tokens stay.

    The modules are open_clip's and timm's own. Raises UserError for a tower that has no place for it.
    """
    from open_clip.transformer import PatchDropout, VisionTransformer
    from timm.layers.patch_dropout import PatchDropout as TimmPatchDropout

    for module in tower.modules():
        at: Any = module
        if isinstance(module, VisionTransformer):
            at.patch_dropout = PatchDropout(share).train(module.training)
            return
        if isinstance(getattr(module, "patch_drop", None), nn.Module) and hasattr(module, "patch_embed"):
            dropout = TimmPatchDropout(share, num_prefix_tokens=getattr(module, "num_prefix_tokens", 1))
            at.patch_drop = dropout.train(module.training)
            return
    raise UserError(
        f"towers.image.patch_dropout is {share:g}, but the image tower is no transformer over patches "
        "(open_clip's and timm's ViTs are): set it to 0 or take another tower"
    )
