from __future__ import annotations

import pytest
import torch

import train
from vlp.config import PRESETS, build, read_preset
from vlp.models.adapt.layers import layers
from vlp.models.dual_encoder import DualEncoder
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.text.huggingface import HuggingFace


def names(tower: torch.nn.Module) -> list[list[str]]:
    known = {id(p): name for name, p in tower.named_parameters()}
    return [[known[id(p)] for p in layer.parameters()] for layer in layers(tower)]


def built(name: str) -> DualEncoder:
    with torch.device("meta"):
        return OpenClip(name).build(0, weights=False)


@pytest.mark.parametrize(
    "architecture, depth", [("ViT-B-32", 14), ("ViT-B-16-SigLIP", 14), ("RN50", 18), ("convnext_base", 6)]
)
def test_each_weight_of_a_tower_is_in_one_layer_from_the_embeddings_to_the_head(architecture: str, depth: int) -> None:
    tower = built(architecture).image_tower
    layered = names(tower)
    assert sorted(name for layer in layered for name in layer) == sorted(dict(tower.named_parameters()))
    assert len(layered) == depth


def test_the_ends_of_a_vit_are_its_embeddings_and_its_projection() -> None:
    model = built("ViT-B-32")
    image, text = names(model.image_tower), names(model.text_tower)
    assert image[0] == ["class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight", "ln_pre.bias"]
    assert image[-1] == ["proj", "ln_post.weight", "ln_post.bias"]
    assert all(name.startswith("transformer.resblocks.4.") for name in image[5])
    assert text[0] == ["positional_embedding", "token_embedding.weight"]
    assert text[-1] == ["text_projection", "ln_final.weight", "ln_final.bias"]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_transformers_text_encoders_have_layers_too(kind: str) -> None:
    with torch.device("meta"):
        layered = names(HuggingFace(kind).build(32, 300, 16))
    assert len(layered) > 7
    assert layered[-1][-1] == "head.weight"


@pytest.mark.parametrize("preset", sorted(p.stem for p in PRESETS.glob("*.toml")))
def test_the_towers_of_every_preset_have_layers(preset: str) -> None:
    model = build(train.RunConfig, read_preset(preset)).model
    with torch.device("meta"):
        encoder = model.build(300, weights=False)
    for tower in (encoder.image_tower, encoder.text_tower):
        layered = names(tower)
        assert sorted(name for layer in layered for name in layer) == sorted(dict(tower.named_parameters()))
        assert len(layered) >= 3
