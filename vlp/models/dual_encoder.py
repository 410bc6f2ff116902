"""Two towers, a logit scale and a logit bias: what every objective here trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Embeddings

MAX_LOG_SCALE = math.log(100.0)  # CLIP's bound (2103.00020, section 2.5): logits are never scaled by more than 100


class Learnt(nn.Module):
    """The weights of an objective, by name: trained and kept with the model's, and no part of what is released."""

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Begin with these values."""
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self) -> dict[str, Tensor]:
        """The weights."""
        return {name: weight * 1.0 for name, weight in self.named_parameters()}  # copies: FSDP2 frees what it gathers


class DualEncoder(nn.Module):
    """An image tower and a text tower into one space of unit vectors.

    `logit_scale` is kept as a logarithm, as CLIP's and SigLIP's checkpoints do; `logit_bias` starts at 0 unless given.
    """

    def __init__(
        self,
        image_tower: nn.Module,
        text_tower: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        scale: float = 1 / 0.07,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.logit_bias = nn.Parameter(torch.tensor(float(bias)))
        self.register_buffer("mean", torch.empty(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(1, 3, 1, 1), persistent=False)
        self.normalise_by(mean, std)
        self.learnt = Learnt()
        self.locked: tuple[nn.Module, ...] = ()

    @torch.no_grad()
    def start(self, *, scale: float | None = None, bias: float | None = None) -> None:
        """Set the logit scale and the logit bias; None leaves one as it is."""
        if scale is not None:
            self.logit_scale.fill_(math.log(scale))
        if bias is not None:
            self.logit_bias.fill_(bias)

    def lock(self, tower: nn.Module) -> None:
        """Freeze `tower`: no gradients, and its norms keep their running statistics (LiT, 2111.07991)."""
        tower.requires_grad_(False)
        self.locked = (*self.locked, tower)
        tower.eval()

    def train(self, mode: bool = True) -> DualEncoder:
        """As nn.Module.train, but locked towers stay in evaluation mode."""
        super().train(mode)
        for tower in self.locked:
            tower.eval()
        return self

    def normalise_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and standard deviation of the pixels, of 1, that `normalise` applies."""
        self.mean = torch.tensor(mean, device=self.mean.device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(std, device=self.std.device).view(1, 3, 1, 1) * 255

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 pictures [B, 3, H, W] as the tower's normalised floats; floats pass through."""
        if image.dtype != torch.uint8:
            return image
        pixels = image.to(self.logit_scale.dtype)
        return (pixels - self.mean) / self.std

    def encode_image(self, image: Tensor) -> Tensor:
        """Unit vectors [B, D] of pictures [B, 3, H, W], uint8 or normalised float; [B, V, D] of V views of each."""
        features = single(self.image_tower(self.normalise(image.flatten(0, -4))))
        return F.normalize(features, dim=-1).view(*image.shape[:-3], features.shape[-1])

    def encode_text(self, text: Tensor) -> Tensor:
        """Unit vectors [B, D] of token ids [B, L]; [B, K, D] of [B, K, L], K captions a picture."""
        features = single(self.text_tower(text.flatten(0, -2)))
        return F.normalize(features, dim=-1).view(*text.shape[:-1], -1)

    def forward(
        self, image: Tensor | None, text: Tensor | None, send: Callable[[Tensor], None] | None = None
    ) -> Embeddings:
        """Embeddings of B pictures and B texts, with the scale and bias that go with them.

        A side that is None stays empty. `send` is given the texts' embeddings before the pictures are encoded.
        """
        none = self.logit_scale.new_empty(0)
        texts = none if text is None else self.encode_text(text)
        if send is not None:
            send(texts)
        images = none if image is None else self.encode_image(image)
        return Embeddings(images, texts, self.logit_scale.exp(), self.logit_bias * 1.0, learnt=self.learnt() or None)

    def released(self) -> dict[str, Tensor]:
        """The state of all but what belongs to the objective."""
        return {name: t for name, t in self.state_dict().items() if not name.startswith("learnt.")}


def single(features: Tensor) -> Tensor:
    """At least float32: what a tower gives in bfloat16 is normalised in single precision."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
