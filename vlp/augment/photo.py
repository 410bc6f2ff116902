"""What photographs may undergo, each by itself in the stream: torchvision's v2 transforms, and timm's policies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlp.augment import Augment, Draws, PictureTransform
from vlp.config import did_you_mean
from vlp.config.bounds import AtLeastZero, Share
from vlp.errors import UserError

TORCHVISION = {"rand": "RandAugment", "auto": "AutoAugment", "trivial": "TrivialAugmentWide", "augmix": "AugMix"}
TIMM = ("rand-", "augmix-", "original", "v0", "3a")  # how timm's notations begin


@dataclass(frozen=True)
class Photo(Augment):
    """Mirror, policy, colour jitter, grey and erased boxes, after the crop (`crop`, `crop_ratio`)."""

    jitter: tuple[AtLeastZero, AtLeastZero, AtLeastZero, AtLeastZero] = (0.32, 0.32, 0.32, 0.08)
    """largest change of brightness, contrast, saturation and hue (open_clip's color_jitter)"""
    jitter_share: Share = 0.8
    """share of the pictures whose colours change (open_clip's color_jitter_prob); 0: none"""
    grey_share: Share = 0.2
    """share of the pictures that become grey (open_clip's gray_scale_prob)"""
    mirror_share: Share = 0.0
    """share of the pictures that are mirrored; captions that say left and right then lie"""
    policy: str = ""
    """rand, auto, trivial or augmix (torchvision's), or timm's notation, such as rand-m9-mstd0.5-inc1; empty: none"""
    erase_share: Share = 0.0
    """share of the pictures of which a box is blackened (open_clip's re_prob)"""

    def __post_init__(self) -> None:
        """Raises UserError for a policy that neither library has, and for a hue of more than half the circle."""
        if self.policy and self.policy not in TORCHVISION and not self.policy.startswith(TIMM):
            raise UserError(
                f'no policy of augment.policy is called "{self.policy}"{did_you_mean(self.policy, list(TORCHVISION))} '
                "(timm's notation is taken too, such as rand-m9-mstd0.5-inc1)"
            )
        if self.jitter[3] > 0.5:
            raise UserError(f'"augment.jitter[3]" is {self.jitter[3]}, but a hue turns by 0.5 of its circle at most')

    def __call__(self, image: Tensor, draws: Draws) -> Tensor:
        """The batch itself: what happens, happens in the stream."""
        return image

    def in_stream(self, crop: PictureTransform) -> PictureTransform:
        """The crop, and then the changes of its pixels."""
        return ChangedCrop(crop, self)

    def change(self, pixels: Tensor, rng: random.Random) -> Tensor:
        """uint8 [3, H, W] changed; all chance comes from `rng`, and no other generator is moved."""
        from PIL import Image as pil

        before, seed = (torch.get_rng_state(), random.getstate(), np.random.get_state()), rng.getrandbits(32)
        try:  # torchvision draws from torch's generator, timm from Python's and numpy's
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            picture: Any = pil.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            for one in on_pictures(self):
                picture = one(picture)
            out = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            return erased(out, self.erase_share)
        finally:
            torch.set_rng_state(before[0])
            random.setstate(before[1])
            np.random.set_state(before[2])


@cache
def on_pictures(photo: Photo) -> list[Callable[[Any], Any]]:
    """The changes in their order, as functions of a PIL image; raises UserError for a notation that timm refuses."""
    from torchvision.transforms import v2

    changes: list[Callable[[Any], Any]] = []
    if photo.mirror_share:
        changes.append(v2.RandomHorizontalFlip(photo.mirror_share))
    if photo.policy in TORCHVISION:
        changes.append(getattr(v2, TORCHVISION[photo.policy])())
    elif photo.policy:
        from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

        make = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
        try:
            changes.append(make.get(photo.policy.split("-")[0], auto_augment_transform)(photo.policy, {}))
        except (AssertionError, ValueError, KeyError) as error:
            raise UserError(f'timm does not know the policy "{photo.policy}" of augment.policy: {error}') from None
    if photo.jitter_share and any(photo.jitter):
        changes.append(v2.RandomApply([v2.ColorJitter(*photo.jitter)], photo.jitter_share))
    if photo.grey_share:
        changes.append(v2.RandomGrayscale(photo.grey_share))
    return changes


def erased(pixels: Tensor, share: float) -> Tensor:
    """The picture, a box of it black with the probability `share`."""
    if not share:
        return pixels
    from torchvision.transforms import v2

    out: Tensor = v2.RandomErasing(share)(pixels)
    return out


@dataclass(frozen=True)
class ChangedCrop:
    """A crop that decoding may be fused with, and the changes that come after it."""

    crop: PictureTransform
    photo: Photo

    def change(self, pixels: Tensor, rng: random.Random) -> Tensor:
        """The pixels of a crop, changed."""
        return self.photo.change(pixels, rng)

    def __call__(self, picture: Any, rng: random.Random) -> Tensor:
        """uint8 [3, size, size]."""
        return self.change(self.crop(picture, rng), rng)
