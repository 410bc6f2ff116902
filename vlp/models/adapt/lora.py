"""Low-rank adapters (LoRA, 2106.09685), by peft: the tower's own weights stay, and each adapted one learns B A."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vlp.config.bounds import Count, Decay, Whole
from vlp.errors import UserError
from vlp.models.adapt.attention import OpenAttention
from vlp.models.adapt.layers import layers


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters of one tower; its other weights are frozen, `trained_layers` at its top apart."""

    rank: Whole = 0
    """rank of the adapters; 0: none"""
    alpha: Count = 16
    """what an adapter adds is scaled by alpha / rank"""
    dropout: Decay = 0.0
    """dropout rate on an adapter's input"""
    targets: tuple[str, ...] = ()
    """ends of the names of linear layers and attentions, such as attn or mlp.c_fc; none: all inside the blocks"""


def adaptable(tower: nn.Module) -> dict[str, nn.Module]:
    """Name -> linear layer or attention of `tower` that can have an adapter: those inside its blocks.

    What is a part of an attention (its output projection) is adapted with it.
    """
    depth = layers(tower)
    blocks = {id(m) for layer in depth[1:-1] or depth for block in layer.modules for m in block.modules()}
    named: dict[str, nn.Module] = {}
    for name, module in tower.named_modules():
        inside = any(name.startswith(f"{other}.") for other in named)
        fits = isinstance(module, nn.Linear) or OpenAttention.takes(module)
        if fits and id(module) in blocks and not inside:
            named[name] = module
    return named


def add_adapters(tower: nn.Module, lora: Lora, where: str) -> None:
    """Put adapters into `tower`, in place, and freeze everything else of it.

    Raises UserError for a target that matches nothing (it lists what there is), and if peft is not installed. `where`
    is the key of `lora` as the user types it.
    """
    try:
        import peft
    except ModuleNotFoundError:
        raise UserError(
            f"{where}.rank is {lora.rank}, which needs peft; install it by pip install 'vlp[lora]'"
        ) from None
    candidates = adaptable(tower)
    chosen = list(candidates) if not lora.targets else []
    for target in lora.targets:
        names = [name for name in candidates if name == target or name.endswith(f".{target}")]
        if not names:
            raise UserError(
                f'{where}.targets names "{target}", which matches nothing in this tower; {_known(candidates)}'
            )
        chosen += names
    if not chosen:
        raise UserError(f"{where}.rank is {lora.rank}, but this tower has no linear layer or attention in its blocks")
    linear: list[str] = []
    for name in dict.fromkeys(chosen):
        if isinstance(attention := candidates[name], nn.MultiheadAttention):
            replace(tower, name, OpenAttention(attention))
            linear += [f"{name}.in_proj", f"{name}.out_proj"]
        else:
            linear.append(name)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=linear, bias="none"
    )
    peft.inject_adapter_in_model(config, tower)
    for module in tower.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # its fast path in evaluation reads weights and would miss the adapters


def _known(candidates: dict[str, nn.Module]) -> str:
    """The ends of the names that there are, without the numbers of blocks."""
    ends = {re.split(r"\.?\b\d+\.", name)[-1] for name in candidates}
    return f"there are: {', '.join(sorted(ends))}" if ends else "it has no linear layer or attention in its blocks"


def replace(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place `name` of `root`."""
    parent, _, own = name.rpartition(".")
    setattr(root.get_submodule(parent), own, module)


def is_adapter(module: nn.Module) -> bool:
    """Whether `module` is peft's wrapper of an adapted one."""
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """A copy of `model` with each adapter added to the weight it belongs to: W + alpha / rank · B A, and no peft left.

    A model without adapters is given back as it is.
    """
    if not any(map(is_adapter, model.modules())):
        return model
    whole: Any = copy.deepcopy(model)
    for name, module in list(whole.named_modules()):
        if is_adapter(module):
            module.merge()
            replace(whole, name, module.get_base_layer())
    for name, module in list(whole.named_modules()):
        if isinstance(module, OpenAttention):
            replace(whole, name, module.closed())
    return whole  # type: ignore[no-any-return]
