"""Names of weights: open_clip's beside transformers', for CLIP and for SigLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
LAYER = [("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("attn.out_proj", "self_attn.out_proj")]
LAYER += [("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")]
BLOCK = [("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("attn.proj", "self_attn.out_proj")]
BLOCK += [("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")]
POOL = [("proj", "attention.out_proj"), ("norm", "layernorm"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")]
HEAD = "vision_model.head."
TEXT = {
    "text.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "text.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text.ln_final.weight": "text_model.final_layer_norm.weight",
    "text.ln_final.bias": "text_model.final_layer_norm.bias",
}
CLIP = {
    **TEXT,
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # so it is spelt
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",  # transposed
    "text.text_projection": "text_projection.weight",  # transposed
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
}
TRANSPOSED = ("visual.proj", "text.text_projection")
SIGLIP = {
    **TEXT,
    "text.text_projection.weight": "text_model.head.weight",
    "text.text_projection.bias": "text_model.head.bias",
    "visual.trunk.pos_embed": "vision_model.embeddings.position_embedding.weight",  # without its first axis
    "visual.trunk.patch_embed.proj.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.trunk.patch_embed.proj.bias": "vision_model.embeddings.patch_embedding.bias",
    "visual.trunk.norm.weight": "vision_model.post_layernorm.weight",
    "visual.trunk.norm.bias": "vision_model.post_layernorm.bias",
    "visual.trunk.attn_pool.latent": f"{HEAD}probe",
    **{
        f"visual.trunk.attn_pool.{own}.{kind}": f"{HEAD}{other}.{kind}"
        for own, other in POOL
        for kind in ("weight", "bias")
    },
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
}


def clip_to_transformers(state: Mapping[str, Tensor]) -> State:
    """CLIPModel's weights from open_clip's, a VisionTransformer and a TextTransformer; other names stay as they are."""
    out: State = {}
    for name, tensor in state.items():
        if name in CLIP:
            out[CLIP[name]] = tensor.T.contiguous() if name in TRANSPOSED else tensor
        else:
            out |= _layer(name, tensor, LAYER, "in_proj_")
    return out


def siglip_to_transformers(state: Mapping[str, Tensor]) -> State:
    """SiglipModel's weights from open_clip's, whose image tower is timm's; other names stay as they are."""
    out: State = {}
    pool = "visual.trunk.attn_pool."
    for name, tensor in state.items():
        if name in SIGLIP:
            out[SIGLIP[name]] = tensor[0] if name.endswith("pos_embed") else tensor
        elif name.startswith(f"{pool}kv."):
            kind = name.rpartition(".")[2]
            out[f"{HEAD}attention.in_proj_{kind}"] = torch.cat([state[f"{pool}q.{kind}"], tensor])
        elif not name.startswith(f"{pool}q."):
            out |= _layer(name, tensor, BLOCK if name.startswith("visual.") else LAYER, "qkv.", "in_proj_")
    return out


def clip_to_open_clip(state: Mapping[str, Tensor]) -> State:
    """open_clip's weights from CLIPModel's, in its form with a text tower apart."""
    own = {other: name for name, other in CLIP.items()}
    out: State = {}
    for name, tensor in state.items():
        if name in own:
            out[own[name]] = tensor.T.contiguous() if own[name] in TRANSPOSED else tensor
            continue
        side, _, n, rest = _split(name, r"(vision|text)_model\.(encoder)\.layers\.(\d+)\.(.*)")
        prefix = f"{'visual' if side == 'vision' else 'text'}.transformer.resblocks.{n}."
        if match := re.fullmatch(r"self_attn\.q_proj\.(weight|bias)", rest):
            base = name[: -len(f"q_proj.{match[1]}")]
            out[f"{prefix}attn.in_proj_{match[1]}"] = torch.cat([state[f"{base}{k}_proj.{match[1]}"] for k in "qkv"])
        elif not re.fullmatch(r"self_attn\.[kv]_proj\.\w+", rest):
            out[prefix + _renamed(rest, [(theirs, ours) for ours, theirs in LAYER])] = tensor
    return out


def _layer(name: str, tensor: Tensor, names: list[tuple[str, str]], *joined: str) -> State:
    """The weight of a layer under transformers' name; queries, keys and values, which open_clip joins, apart."""
    side, _, n, rest = _split(name, r"(visual|text)\.(?:transformer\.(resblocks)|trunk\.blocks)\.(\d+)\.(.*)")
    if not n:
        return {name: tensor}
    prefix = f"{'vision' if side == 'visual' else 'text'}_model.encoder.layers.{n}."
    for join in joined:
        if rest.startswith(f"attn.{join}"):
            kind = rest.removeprefix(f"attn.{join}")
            parts = tensor.chunk(3)
            return {f"{prefix}self_attn.{k}_proj.{kind}": p.clone() for k, p in zip("qkv", parts, strict=True)}
    return {prefix + _renamed(rest, names): tensor}


def _split(name: str, pattern: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, name)
    return match.groups("") if match else ("", "", "", name)


def _renamed(name: str, names: list[tuple[str, str]]) -> str:
    for own, other in names:
        if name.startswith(f"{own}."):
            return other + name[len(own) :]
    return name
