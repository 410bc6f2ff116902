"""A CLIPModel or a SiglipModel of transformers, from a folder with config.json and safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from vlp.config import COMMON
from vlp.errors import UserError
from vlp.legible import plain
from vlp.models import Model
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image_transform import ImageTransform, Interpolation, Resize
from vlp.models.tokenizer import FastTokenizer, Tokenizer

PREPROCESSING = "preprocessor_config.json"
FILTERS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as transformers writes them
UNBOUNDED = 1_000_000  # transformers writes a number of thirty digits where a tokenizer cuts nothing
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}


@dataclass(frozen=True)
class Transformers(Model):
    """A dual encoder of transformers: architecture, tokenizer and preprocessing as its folder pairs them."""

    folder: Annotated[str, COMMON] = ""
    """folder with config.json, model.safetensors, preprocessor_config.json and tokenizer.json"""
    config: str = ""
    """config.json and preprocessor_config.json as text; only model folders have it"""

    def configuration(self) -> Any:
        """transformers' configuration. Raises UserError if the model is neither CLIP's nor SigLIP's."""
        from transformers import AutoConfig

        tree = dict(self._files()["model"])
        kind = tree.pop("model_type", None)
        if kind not in CLASSES:
            raise UserError(
                f'"model_type" is {plain(kind)!r} in {self.folder or "model.config"}, but vlp knows "clip" and "siglip"'
            )
        return AutoConfig.for_model(kind, **tree)

    def tokenizer(self, captions: Iterable[str]) -> Tokenizer:
        """The tokenizer in the folder; `captions` are not read. Raises UserError if it has none, or another model's."""
        fast, text = tokenizer_of(self.folder), self.configuration().text_config
        own = FastTokenizer(fast.backend_tokenizer.to_str(), text.max_position_embeddings, shift=1)
        name = f"the tokenizer in {self.folder}"
        if own.vocab - 1 > text.vocab_size:
            raise UserError(f"{name} has {own.vocab - 1} tokens, but the weights have rows for {text.vocab_size}")
        if fast.model_max_length < UNBOUNDED and fast.model_max_length != text.max_position_embeddings:
            raise UserError(
                f"{name} cuts texts at {fast.model_max_length} tokens (model_max_length), but the model has a context "
                f"length of {text.max_position_embeddings}"
            )
        if text.model_type.startswith("clip"):
            last = own.vocab - 2 if text.eos_token_id == 2 else text.eos_token_id  # 2: configurations of before 2023
            if fast.eos_token_id != last:
                raise UserError(f"{name} ends texts with token {fast.eos_token_id}, but the model reads {last}")
        elif fast.pad_token_id != text.pad_token_id:  # it reads the last position, which is padding
            raise UserError(f"{name} pads with token {fast.pad_token_id}, but the model with {text.pad_token_id}")
        return own

    def transform(self) -> ImageTransform:
        """The picture preparation of preprocessor_config.json. Raises UserError where it is none that vlp has."""
        return transform_of(self._files()["preprocessing"], self.configuration().vision_config.image_size)

    def resolved(self) -> Transformers:
        """The same model with its configuration written out."""
        return replace(self, config=json.dumps(self._files()))

    def start(self, encoder: DualEncoder, *, scale: float, bias: float) -> None:
        """Pretrained weights keep their scale and bias."""

    def build(self, vocab: int, *, weights: bool = True) -> DualEncoder:
        """The dual encoder. Raises UserError if the weights are not those of the configuration."""
        configuration, transform = self.configuration(), self.transform()
        model = opened(self.folder) if weights else class_of(configuration)(configuration)
        if configuration.model_type == "clip":
            vision, text = model.visual_projection, model.text_projection
        else:
            vision = text = nn.Identity()
        encoder = DualEncoder(
            VisionTower(model.vision_model, vision),
            TextTower(model.text_model, text, configuration),
            mean=transform.mean,
            std=transform.std,
        )
        with torch.no_grad():
            for own, theirs in ((encoder.logit_scale, "logit_scale"), (encoder.logit_bias, "logit_bias")):
                if hasattr(model, theirs):  # CLIP has no bias
                    own.copy_(getattr(model, theirs).reshape(()))
        return encoder

    def _files(self) -> dict[str, Any]:
        """config.json and preprocessor_config.json."""
        if self.config:
            return dict(json.loads(self.config))
        return {
            key: _json(Path(self.folder) / n) for key, n in (("model", "config.json"), ("preprocessing", PREPROCESSING))
        }


def class_of(configuration: Any) -> Any:
    """transformers' class of a configuration."""
    import transformers

    return getattr(transformers, CLASSES[configuration.model_type])


def opened(folder: str | Path) -> Any:
    """transformers' model of a folder, float32, in evaluation mode; never from a pickle. Raises UserError."""
    from transformers import AutoConfig
    from transformers.utils import logging

    try:
        kind = class_of(AutoConfig.from_pretrained(folder))
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model, loading = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{folder} cannot be opened by transformers: {plain(error).splitlines()[0]}") from None
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f'{folder} lacks weights, such as "{missing[0]}"; copy the folder again')
    return model.eval()


def tokenizer_of(folder: str | Path) -> Any:
    """transformers' tokenizer of a folder. Raises UserError if it has none that works without Python code."""
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise UserError(f"{folder} has no tokenizer: {plain(error).splitlines()[0]}") from None
    if not getattr(fast, "is_fast", False):
        raise UserError(f"{folder} has no tokenizer.json; save its tokenizer with one (AutoTokenizer, save_pretrained)")
    return fast


def transform_of(tree: Mapping[str, Any], side: int) -> ImageTransform:
    """The preparation that a preprocessor_config.json describes, for a model of pictures of `side` pixels.

    Raises UserError that names the first key that vlp cannot follow, or that does not fit the model.
    """
    size = tree.get("size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else dict(size)
    crop = tree.get("crop_size") if tree.get("do_center_crop") else None
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    resize: Resize = "shortest" if "shortest_edge" in size else "squash"
    sides = set(size.values()) | set((crop or {}).values())
    wanted = {
        "size": sides == {side} and (resize == "squash" or crop is not None),
        "resample": tree.get("resample") in FILTERS,
        "rescale_factor": abs(float(tree.get("rescale_factor", 1 / 255)) - 1 / 255) < 1e-6,
        **{key: bool(tree.get(key, True)) for key in ("do_resize", "do_rescale", "do_normalize")},
    }
    if wrong := [key for key, fits in wanted.items() if not fits]:
        raise UserError(
            f"{PREPROCESSING} has {wrong[0]} = {plain(tree.get(wrong[0]))}, but the model wants squares of {side} "
            "pixels, resized by a bilinear or bicubic filter, of 0 to 1, normalised; correct that file"
        )
    means, deviations = tree["image_mean"], tree["image_std"]
    return ImageTransform(
        side,
        resize,
        FILTERS[tree["resample"]],
        mean=(float(means[0]), float(means[1]), float(means[2])),
        std=(float(deviations[0]), float(deviations[1]), float(deviations[2])),
    )


class VisionTower(nn.Module):
    """transformers' image tower with its projection."""

    def __init__(self, vision_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision_model, self.projection = vision_model, projection

    def forward(self, image: Tensor) -> Tensor:
        """Features [B, width] of normalised pictures [B, 3, H, W]."""
        return self.projection(self.vision_model(pixel_values=image).pooler_output)  # type: ignore[no-any-return]


class TextTower(nn.Module):
    """transformers' text tower with its projection; SigLIP's reads the last position, so texts are padded in full."""

    def __init__(self, text_model: nn.Module, projection: nn.Module, configuration: Any) -> None:
        super().__init__()
        self.text_model, self.projection = text_model, projection
        text = configuration.text_config
        self.padding = text.pad_token_id or 0
        self.length = text.max_position_embeddings if configuration.model_type == "siglip" else 0

    def forward(self, text: Tensor) -> Tensor:
        """Features [B, width] of token ids [B, L], 0 = padding, others are the tokenizer's plus 1."""
        ids = torch.where(text != 0, text - 1, self.padding)
        if self.length > ids.shape[1]:
            ids = nn.functional.pad(ids, (0, self.length - ids.shape[1]), value=self.padding)
        return self.projection(self.text_model(input_ids=ids).pooler_output)  # type: ignore[no-any-return]


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"there is no {path}; give a folder that save_pretrained of transformers wrote") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {plain(error)}; copy it again") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} should hold an object, but it holds {plain(tree)[:40]}")
    return tree
