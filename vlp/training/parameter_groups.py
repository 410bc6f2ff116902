"""Which weights decay, and how fast each learns: by kind, by tower and by depth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt, Le
from torch import nn

from vlp.config.bounds import AtLeastZero
from vlp.models.adapt.layers import layers

EMBEDDINGS = (
    *("class_embedding", "cls_token", "reg_token", "dist_token", "mask_token", "latent", "probe"),
    *("positional_embedding", "pos_embed", "position", "position_embedding.weight", "position_embeddings.weight"),
)
"""Ends of the names of class and position embeddings: open_clip's, timm's, transformers' and ours."""

Named = tuple[str, nn.Parameter]


@dataclass(frozen=True)
class TowerRate:
    """The learning rates of one tower."""

    lr: AtLeastZero = 1.0
    """its learning rate, as a multiple of the optimizer's"""
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """from the head downwards, each layer learns at so many times the rate of the one above; 1: all alike"""


def rates(model: nn.Module, image: TowerRate, text: TowerRate) -> dict[int, tuple[str, float]]:
    """id of each weight in a tower -> (image or text, its multiple of the learning rate).

    Layer i of n (the head is the last) learns at lr · layer_decay^(n − 1 − i) (BEiT, 2106.08254, appendix).
    """
    out: dict[int, tuple[str, float]] = {}
    for name, rate in (("image", image), ("text", text)):
        tower = getattr(model, f"{name}_tower", None)
        if isinstance(tower, nn.Module):
            depth = layers(tower)
            for i, layer in enumerate(depth):
                factor = rate.lr * rate.layer_decay ** (len(depth) - 1 - i)
                out |= {id(p): (name, factor) for p in layer.parameters()}
    return out


def decays(name: str, parameter: nn.Parameter, *, spare_embeddings: bool) -> bool:
    """Whether a weight decays: no gain, bias, norm, logit scale or logit bias does, as in open_clip's program."""
    spared = parameter.ndim < 2 or "bias" in name.rpartition(".")[2]
    return not spared and not (spare_embeddings and name.endswith(EMBEDDINGS))


def groups(
    named: Iterable[Named],
    *,
    lr: float,
    weight_decay: float,
    factors: dict[int, tuple[str, float]],
    spare_embeddings: bool = False,
) -> list[dict[str, Any]]:
    """Parameter groups of the weights that want a gradient: each `peak` is a full learning rate.

    What decays comes first, and then the fastest; without factors there are two groups at most.
    """
    alike = len({factor for _, factor in factors.values()} | {1.0}) == 1
    members: dict[tuple[bool, str, float], list[nn.Parameter]] = {}
    for name, p in named:
        if p.requires_grad:
            part, factor = ("", 1.0) if alike else factors.get(id(p), ("", 1.0))
            members.setdefault((decays(name, p, spare_embeddings=spare_embeddings), part, factor), []).append(p)
    return [
        {"params": p, "lr": lr * factor, "peak": lr * factor, "weight_decay": weight_decay if decay else 0.0}
        for (decay, _, factor), p in sorted(members.items(), key=lambda item: (not item[0][0], -item[0][2], item[0][1]))
    ]
