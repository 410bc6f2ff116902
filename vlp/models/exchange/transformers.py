"""transformers: CLIPModel and SiglipModel, in folders with config.json and safetensors, in and out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from vlp.config import component_name
from vlp.errors import UserError
from vlp.models import Model
from vlp.models.exchange import Exchange, Foreign, Parts, normalised
from vlp.models.exchange._names import clip_to_transformers, siglip_to_transformers
from vlp.models.exchange.open_clip import open_clip_form, transformers_state
from vlp.models.image_transform import ImageTransform
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.kinds.transformers import FILTERS, Transformers, class_of, opened, tokenizer_of
from vlp.models.release import Release
from vlp.models.tokenizer import FastTokenizer, OpenClipTokenizer


@dataclass(frozen=True)
class TransformersExchange(Exchange):
    """Folders of transformers."""

    def recognises(self, source: Path) -> bool:
        """A folder with config.json and no model.toml."""
        return (source / "config.json").is_file() and not (source / "open_clip_config.json").is_file()

    def read(self, source: Path, architecture: str) -> Parts:
        """The model. Raises UserError if its parts do not fit each other."""
        if architecture:
            raise UserError(f"{source / 'config.json'} says the architecture; leave --architecture out")
        config = Transformers(str(source))
        tokenizer = config.tokenizer(())
        encoder = config.build(tokenizer.vocab)
        return Parts(config.resolved(), encoder.eval(), tokenizer)

    def write(self, release: Release, config: Model, folder: Path) -> None:
        """config.json, model.safetensors, preprocessor_config.json and the tokenizer's files."""
        if isinstance(config, Transformers):
            configuration, state = config.configuration(), transformers_state(release.encoder.state_dict())
        elif isinstance(config, OpenClip):
            configuration, state = _from_open_clip(release, config)
        else:
            raise UserError(
                f'{release.name} is a model "{component_name(config, Model)}", which transformers cannot build; '
                "export it --to onnx"
            )
        model = class_of(configuration)(configuration)
        known = model.state_dict()
        if configuration.model_type == "clip":
            state.pop("logit_bias", None)
        misfits = sorted(k for k in known.keys() | state.keys() if k not in known or k not in state)
        misfits += [k for k in state if k in known and state[k].numel() != known[k].numel()]
        if misfits:
            raise UserError(
                f"{release.name} has no counterpart in transformers' {type(model).__name__}: {misfits[0]} is in one of "
                "the two only; export it --to open_clip or onnx"
            )
        model.load_state_dict({key: value.reshape(known[key].shape) for key, value in state.items()})
        model.save_pretrained(folder)
        _save_preprocessing(release.transform, configuration.model_type, folder)
        _save_tokenizer(release, configuration.text_config, folder)

    def foreign(self, source: Path, architecture: str) -> Foreign:
        """The model as transformers itself opens it."""
        from transformers import AutoImageProcessor

        model, tokenizer = opened(source), tokenizer_of(source)
        prepare: Any = AutoImageProcessor.from_pretrained(source, backend="pil")  # type: ignore[no-untyped-call]
        length = model.config.text_config.max_position_embeddings
        padding = "max_length" if model.config.model_type == "siglip" else True

        def pictures(some: Sequence[Any]) -> Tensor:
            return _features(model.get_image_features(**prepare(images=list(some), return_tensors="pt")))

        def texts(captions: Sequence[str]) -> Tensor:
            ids = tokenizer(list(captions), padding=padding, truncation=True, max_length=length, return_tensors="pt")
            mask = {"attention_mask": ids["attention_mask"]} if padding is True else {}
            return _features(model.get_text_features(input_ids=ids["input_ids"], **mask))

        def pixels(some: Tensor) -> Tensor:
            return _features(
                model.get_image_features(pixel_values=normalised(some, prepare.image_mean, prepare.image_std))
            )

        def tokens(captions: Sequence[str]) -> list[list[int]]:
            return list(tokenizer(list(captions), truncation=True, max_length=length)["input_ids"])

        return Foreign(pixels=pixels, pictures=pictures, tokens=tokens, texts=texts)


def _features(output: Any) -> Tensor:
    """Features [B, D], whichever way a version of transformers gives them."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _from_open_clip(release: Release, config: OpenClip) -> tuple[Any, dict[str, Tensor]]:
    """transformers' configuration and weights of a model of open_clip. Raises UserError where there is none."""
    import open_clip
    from transformers import CLIPConfig, SiglipConfig

    state, model = open_clip_form(release, config)
    state = {k if k.startswith(("visual.", "text.", "logit_")) else f"text.{k}": v for k, v in state.items()}
    if model["text_cfg"].get("hf_model_name"):
        raise UserError(f"the text tower of {release.name} is not CLIP's; export it --to open_clip or onnx")
    encoder = release.encoder
    text, tokenizer = model["text_cfg"], _special(release)
    sizes = open_clip.model.CLIPTextCfg(
        **{k: v for k, v in text.items() if k in open_clip.model.CLIPTextCfg.__annotations__}
    )
    words = {
        "hidden_size": sizes.width,
        "intermediate_size": int(sizes.width * sizes.mlp_ratio),
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.context_length,
        "layer_norm_eps": _epsilon(encoder.text_tower),
        "hidden_act": _activation(encoder.text_tower),
        **tokenizer,
    }
    image: dict[str, Any] = {"image_size": release.transform.size, "layer_norm_eps": _epsilon(encoder.image_tower)}
    image["hidden_act"] = _activation(encoder.image_tower)
    if "timm_model_name" in model["vision_cfg"]:
        trunk: Any = getattr(encoder.image_tower, "trunk", None)
        if "visual.trunk.attn_pool.latent" not in state:
            raise UserError(f"the image tower of {release.name} is not SigLIP's; export it --to open_clip or onnx")
        image |= _trunk(trunk)
        state.setdefault("logit_bias", torch.zeros(()))
        words["projection_size"] = model["embed_dim"]
        return SiglipConfig(text_config=words, vision_config=image), siglip_to_transformers(state)
    vision = open_clip.model.CLIPVisionCfg(
        **{k: v for k, v in model["vision_cfg"].items() if k in open_clip.model.CLIPVisionCfg.__annotations__}
    )
    if not isinstance(vision.layers, int):
        raise UserError(f"the image tower of {release.name} is a ResNet; export it --to open_clip or onnx")
    image |= {
        "hidden_size": vision.width,
        "intermediate_size": int(vision.width * vision.mlp_ratio),
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.width // vision.head_width,
        "patch_size": vision.patch_size,
    }
    width = model["embed_dim"]
    both = {"projection_dim": width}
    return CLIPConfig(text_config=words | both, vision_config=image | both, **both), clip_to_transformers(state)


def _trunk(trunk: Any) -> dict[str, Any]:
    """The sizes of a timm vision transformer, as transformers names them."""
    block = trunk.blocks[0]
    return {
        "hidden_size": trunk.embed_dim,
        "intermediate_size": block.mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": block.attn.num_heads,
        "patch_size": trunk.patch_embed.patch_size[0],
    }


def _epsilon(tower: nn.Module) -> float:
    return next(module.eps for module in tower.modules() if isinstance(module, nn.LayerNorm))


def _activation(tower: nn.Module) -> str:
    """transformers' name of the activation in a tower's MLPs."""
    for module in tower.modules():
        name = type(module).__name__
        if name == "QuickGELU":
            return "quick_gelu"
        if name == "GELUTanh" or (isinstance(module, nn.GELU) and module.approximate == "tanh"):
            return "gelu_pytorch_tanh"
        if "GELU" in name:
            return "gelu"
    raise UserError(f"{type(tower).__name__} has no activation that transformers knows; export it --to onnx")


def _save_preprocessing(transform: ImageTransform, kind: str, folder: Path) -> None:
    """preprocessor_config.json. Raises UserError for a preparation that transformers' processors do not have."""
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    if transform.resize == "longest":
        raise UserError("pictures resized by their longest side have no counterpart in transformers; export --to onnx")
    side = {"height": transform.size, "width": transform.size}
    shortest = transform.resize == "shortest"
    settings: dict[str, Any] = {
        "size": {"shortest_edge": transform.size} if shortest else side,
        "resample": next(number for number, name in FILTERS.items() if name == transform.interpolation),
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
        "do_center_crop": shortest,
    }
    if shortest:
        settings["crop_size"] = side
    (CLIPImageProcessor if kind == "clip" else SiglipImageProcessor)(**settings).save_pretrained(folder)


def _special(release: Release) -> dict[str, int]:
    """Ids of the tokens that begin, end and pad a text."""
    tokenizer = release.tokenizer
    assert isinstance(tokenizer, OpenClipTokenizer)
    own = tokenizer.theirs
    if hasattr(own, "eot_token_id"):
        return {"bos_token_id": own.sot_token_id, "eos_token_id": own.eot_token_id, "pad_token_id": own.eot_token_id}
    fast = own.tokenizer
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(fast, name) for name in names if getattr(fast, name, None) is not None}


def _save_tokenizer(release: Release, text: Any, folder: Path) -> None:
    """The tokenizer's files, for AutoTokenizer."""
    from tokenizers import Tokenizer as Fast
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    tokenizer, most = release.tokenizer, {"model_max_length": release.tokenizer.context}
    if isinstance(tokenizer, FastTokenizer):
        with TemporaryDirectory() as place:
            tokenizer.save(Path(place) / "tokenizer.json")
            tree = json.loads((Path(place) / "tokenizer.json").read_text(encoding="utf-8"))
        fast = Fast.from_str(json.dumps(tree["tokenizer"] if tokenizer.shift else tree))
        fast.no_truncation()
        ids = {"bos_token": text.bos_token_id, "eos_token": text.eos_token_id, "pad_token": text.pad_token_id}
        tokens = {key: fast.id_to_token(i) for key, i in ids.items() if i is not None}
        known = {key: token for key, token in tokens.items() if token is not None}
        saved: Any = PreTrainedTokenizerFast(tokenizer_object=fast, **known, **most)  # type: ignore[no-untyped-call]
        saved.save_pretrained(folder)
    elif isinstance(tokenizer, OpenClipTokenizer):
        own = tokenizer.theirs
        if not hasattr(own, "bpe_ranks"):
            own.save_pretrained(folder)
            return
        start, end = (own.decoder[i] for i in own.all_special_ids[:2])
        special = dict.fromkeys(("unk_token", "eos_token", "pad_token"), end)
        merges: Any = list(own.bpe_ranks)
        names: dict[str, Any] = {"bos_token": start, **special, **most}
        CLIPTokenizer(own.encoder, merges, **names).save_pretrained(folder)
