"""Any image model of timm, with a linear head into the shared space."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import nn

from vlp.config import COMMON
from vlp.config.bounds import Decay
from vlp.errors import UserError
from vlp.models import ImageTower
from vlp.models.hub import fetching


@dataclass(frozen=True)
class Timm(ImageTower):
    """An image model of timm by name."""

    architecture: Annotated[str, COMMON] = "vit_tiny_patch16_224"
    """timm's name of the model"""
    pretrained: bool = False
    """start from timm's pretrained weights (fetched from the hub)"""
    drop_path: Decay = 0.0
    """stochastic depth rate"""
    options: dict[str, Any] = field(default_factory=dict)
    """further arguments of the architecture, such as embed_dim or depth"""
    channels_last: bool = False
    """keep pictures and weights channels last: faster for convolutions on CPUs and tensor cores"""

    def build(self, width: int, size: int) -> nn.Module:
        """A module [B, 3, size, size] -> [B, width].

        Raises UserError for a name timm does not know, and if loading its weights fails.
        """
        import timm

        options = dict(self.options)
        if self.drop_path:
            options["drop_path_rate"] = self.drop_path
        create = partial(timm.create_model, self.architecture, pretrained=self.pretrained, num_classes=width)
        with fetching(f'the weights of timm\'s "{self.architecture}"', self._repository()):
            try:
                try:
                    model = create(**{"img_size": size, **options})
                except TypeError as error:  # a tower that takes pictures of any size
                    if "'img_size'" not in str(error) or "img_size" in options:
                        raise
                    model = create(**options)
            except RuntimeError as error:
                if "Unknown model" not in str(error):
                    raise
                near = timm.list_models(f"*{self.architecture[:6]}*")[:5]
                raise UserError(
                    f'timm has no model "{self.architecture}"; near names: {", ".join(near) or "none"}'
                ) from None
        return _ChannelsLast(model) if self.channels_last else model

    def resolved(self) -> Timm:
        """The same tower without weights to fetch: those of a model folder are its own."""
        return replace(self, pretrained=False)

    def _repository(self) -> str:
        """OWNER/NAME of the weights on the hub; "" where none are wanted."""
        import timm

        where, _, rest = self.architecture.partition(":")
        if rest:
            return rest if where.replace("_", "-") == "hf-hub" else ""
        known = timm.get_pretrained_cfg(self.architecture) if self.pretrained else None
        return str(known.hf_hub_id or "") if known else ""


class _ChannelsLast(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]
