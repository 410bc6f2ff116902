"""Any model of open_clip, by its name."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
from torch import Tensor

from vlp.config import COMMON, did_you_mean, merge
from vlp.config.bounds import Whole
from vlp.errors import UserError
from vlp.models import Model
from vlp.models.dual_encoder import DualEncoder
from vlp.models.hub import fetching
from vlp.models.image_transform import ImageTransform
from vlp.models.origin import other_activation, other_pictures, tags_of, with_activation
from vlp.models.tokenizer import OpenClipTokenizer, Tokenizer

PLACES = ("hf-hub:", "local-dir:")  # names of a place that holds a model with its weights and configuration
CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class OpenClip(Model):
    """A model of open_clip: architecture, tokenizer and preprocessing as open_clip pairs them."""

    architecture: Annotated[str, COMMON] = "ViT-B-32"
    """open_clip's name of the model; hf-hub:OWNER/NAME and local-dir:FOLDER hold their own weights"""
    pretrained: Annotated[str, COMMON] = ""
    """open_clip's tag of the weights, or a checkpoint file; empty: random weights, but for hf-hub: and local-dir:"""
    image_size: Annotated[Whole, COMMON] = 0
    """side of the pictures, pixels; 0: the architecture's own"""
    options: dict[str, Any] = field(default_factory=dict)
    '''changes to open_clip's configuration by dotted keys, such as "text_cfg.context_length" or "vision_cfg.layers"'''
    config: str = ""
    """open_clip_config.json of a model that is kept elsewhere, as text; only model folders have it"""

    @classmethod
    def named(cls, name: str) -> OpenClip:
        """The model of `ARCHITECTURE`, `ARCHITECTURE:PRETRAINED`, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`."""
        if name.startswith(PLACES):
            return cls(name)
        architecture, _, pretrained = name.partition(":")
        return cls(architecture, pretrained)

    def tokenizer(self, captions: Iterable[str]) -> Tokenizer:
        """open_clip's tokenizer of the architecture; `captions` are not read. Raises UserError if loading fails."""
        text = self._model_config()["text_cfg"]
        own = self.options and not text.get("hf_tokenizer_name") and not text.get("hf_model_name")
        files = {CONFIG: json.dumps({"model_cfg": {"text_cfg": text}})} if own else None
        with fetching(f'the tokenizer of "{self.architecture}"', self._tokenizer_repository()):
            return OpenClipTokenizer(self.architecture, files)

    def transform(self) -> ImageTransform:
        """open_clip's evaluation preprocessing of the architecture with these weights (its defaults, without).

        Raises UserError for an unknown architecture.
        """
        from open_clip.transform import PreprocessCfg, merge_preprocess_dict

        vision, own = self._vision(), self._preprocessing()
        size = self.image_size or vision.get("image_size", 224)
        sides = set(size) if isinstance(size, tuple | list) else {size}
        if len(sides) > 1:
            raise UserError(f'"{self.architecture}" takes pictures of {size}, but vlp gives squares only')
        theirs = merge_preprocess_dict(PreprocessCfg(), own)
        return ImageTransform(
            size=sides.pop(),
            resize=theirs["resize_mode"],
            interpolation="bilinear" if theirs["interpolation"] == "bilinear" else "bicubic",  # "random" is training's
            fill=theirs["fill_color"],
            mean=_three(theirs["mean"]),
            std=_three(theirs["std"]),
        )

    def tags(self) -> list[str]:
        """open_clip's tags of weights of the architecture. Raises UserError for an unknown architecture."""
        import open_clip

        self._vision()
        return list(open_clip.list_pretrained_tags_by_model(self.architecture))

    def described(self) -> dict[str, Any]:
        """open_clip's configuration of the whole model. Raises UserError for an unknown architecture."""
        return self._model_config()

    @property
    def has_weights(self) -> bool:
        """Whether weights are named: by a tag, by a checkpoint file, or by a place that keeps them with the model."""
        return bool(self.pretrained) or self.architecture.startswith(PLACES)

    def _vision(self) -> dict[str, Any]:
        """The configuration of the image tower, without building it."""
        return dict(self._model_config()["vision_cfg"])

    def _repository(self, *, weights: bool) -> str:
        """OWNER/NAME of what building fetches from the hub: the weights, or a text encoder; "" if nothing."""
        import open_clip

        where, _, rest = self.architecture.partition(":")
        if weights and self.pretrained:
            known = open_clip.get_pretrained_cfg(self.architecture, self.pretrained)
            return str(known.get("hf_hub", "")).rpartition("/")[0]  # the file comes after the last stroke
        if weights and where == "hf-hub":
            return rest
        return str(self._model_config().get("text_cfg", {}).get("hf_model_name") or "")

    def _tokenizer_repository(self) -> str:
        """OWNER/NAME of the tokenizer on the hub; "" where it comes with open_clip or lies in a folder."""
        where, _, rest = self.architecture.partition(":")
        named = self._model_config().get("text_cfg", {}).get("hf_tokenizer_name") or ""
        return str(named) if where != "hf-hub" else str(named or rest)

    def _model_config(self) -> dict[str, Any]:
        """The configuration of the whole model, without building it. Raises UserError for an unknown architecture."""
        import open_clip

        known = open_clip.list_models()
        if self.architecture not in known and not self.architecture.startswith(PLACES):
            raise UserError(f'open_clip has no model "{self.architecture}"{did_you_mean(self.architecture, known)}')
        elsewhere = self._config_elsewhere()
        tree = dict(elsewhere["model_cfg"] if elsewhere else open_clip.get_model_config(self.architecture))
        for path, value in self.options.items():
            *tables, key = path.split(".")
            at = tree
            for table in tables:
                at = at.setdefault(table, {})
            at[key] = merge(at.get(key) or {}, value) if isinstance(value, dict) else value
        return tree

    def _preprocessing(self) -> dict[str, Any]:
        """What the weights' own configuration says of pictures."""
        import open_clip

        elsewhere = self._config_elsewhere()
        if elsewhere:
            return dict(elsewhere.get("preprocess_cfg", {}))
        return dict(open_clip.get_pretrained_cfg(self.architecture, self.pretrained))

    def _config_elsewhere(self) -> dict[str, Any]:
        """The configuration of a model that another place holds; empty for the architectures of open_clip itself."""
        where, _, rest = self.architecture.partition(":")
        if self.config or not rest:
            return dict(json.loads(self.config or "{}"))
        from open_clip.factory import download_pretrained_from_hf

        with fetching(f'the configuration of "{self.architecture}"', rest if where == "hf-hub" else ""):
            path = Path(rest) / CONFIG if where == "local-dir" else download_pretrained_from_hf(rest, CONFIG)
            tree = json.loads(Path(path).read_text(encoding="utf-8"))
            return {"model_cfg": tree["model_cfg"], "preprocess_cfg": tree.get("preprocess_cfg", {})}

    def resolved(self) -> OpenClip:
        """The same model with the configuration that another place holds."""
        elsewhere = self._config_elsewhere()
        return replace(self, config=json.dumps(elsewhere)) if elsewhere else self

    def _check_weights(self) -> None:
        """Raise UserError for `options`, and if `pretrained` is neither a tag of the architecture nor a file."""
        import open_clip

        if self.options:
            name = ":".join(filter(None, (self.architecture, self.pretrained)))
            raise UserError(
                f'model.options change "{self.architecture}", so its weights may not fit: start from them by '
                f"--training.init {name} instead"
            )
        known = self.architecture.startswith(PLACES) or open_clip.is_pretrained_cfg(self.architecture, self.pretrained)
        if not known and not Path(self.pretrained).is_file():
            raise UserError(
                f'open_clip has no weights "{self.pretrained}" of "{self.architecture}", and there is no such '
                f"checkpoint file{did_you_mean(self.pretrained, self.tags())}"
            )
        self.check_origin()

    def origin(self) -> list[tuple[str, str]]:
        """(architecture, tag) of open_clip's table whose weights these are; none for weights from elsewhere."""
        import open_clip

        if open_clip.is_pretrained_cfg(self.architecture, self.pretrained):
            return [(self.architecture, self.pretrained)]
        where, _, rest = self.architecture.partition(":")
        return tags_of(self.pretrained or (rest if where == "hf-hub" else ""))

    def check_origin(self) -> None:
        """Raise UserError if the weights are known, and were trained otherwise than the model would use them."""
        import open_clip

        why, quick = "", bool(self._model_config().get("quick_gelu"))
        for architecture, tag in self.origin():
            known = open_clip.get_pretrained_cfg(architecture, tag)
            trained = OpenClip(architecture, tag, self.image_size)
            reason = other_activation(quick, known) or other_pictures(self.transform(), trained.transform())
            if not reason:
                return
            name = with_activation(architecture, bool(known.get("quick_gelu")))
            if f"{name}:{tag}" == f"{self.architecture}:{self.pretrained}":
                return  # open_clip's table does not say of roberta-ViT-B-32 what its architecture does
            why = why or f"{reason}: name them as {name}:{tag}"
        if why:
            which = f'"{self.pretrained}"' if self.pretrained else f'of "{self.architecture}"'
            raise UserError(f"the weights {which} {why}")

    def start(self, encoder: DualEncoder, *, scale: float, bias: float) -> None:
        """Scale and bias of the objective for new weights; pretrained ones keep theirs."""
        if not self.has_weights:
            encoder.start(scale=scale, bias=bias)

    def build(self, vocab: int, *, weights: bool = True) -> DualEncoder:
        """The dual encoder, with `pretrained` weights if `weights`.

        Raises UserError for an unknown architecture, and if the named weights cannot be loaded.
        """
        import open_clip

        from vlp.models.packing import PackedTextTransformer  # it imports open_clip, which takes a second

        transform = self.transform()
        wanted = weights and self.has_weights
        if wanted:
            self._check_weights()
        config = self.config
        if self.options:
            config = json.dumps({"model_cfg": self._model_config(), "preprocess_cfg": self._preprocessing()})
        part = f'the weights "{self.pretrained}"' if wanted and self.pretrained else "a part"
        with (
            fetching(f'{part} of open_clip\'s "{self.architecture}"', self._repository(weights=wanted)),
            _silenced(),
            _folder_of(config) as folder,
        ):
            model = open_clip.create_model(
                f"local-dir:{folder}" if folder and not wanted else self.architecture,
                (self.pretrained or None) if wanted else None,
                load_weights=wanted,
                force_custom_text=True,
                force_image_size=self.image_size or None,
                require_pretrained=wanted,
                device=torch.get_default_device(),
            )
        for tower in (model.visual, model.text):
            if hasattr(tower, "output_tokens"):  # CoCa's towers also give every token, for its decoder
                tower.output_tokens = False
        if PackedTextTransformer.can_pack(model.text):
            model.text.__class__ = PackedTextTransformer  # the same weights and names, another way through them
        return DualEncoder(
            model.visual,
            model.text,
            mean=transform.mean,
            std=transform.std,
            scale=math.exp(_number(model.logit_scale, math.log(1 / 0.07))),
            bias=_number(model.logit_bias, 0.0),
        )


def _number(scalar: Tensor | None, start: float) -> float:
    """A scalar's value; `start` where there is none, or where it has no value (on the meta device)."""
    return start if scalar is None or scalar.is_meta else float(scalar.detach())


def _three(values: float | Sequence[float]) -> tuple[float, float, float]:
    """One value for each colour."""
    red, green, blue = [values] * 3 if isinstance(values, float | int) else values
    return float(red), float(green), float(blue)


@contextmanager
def _folder_of(config: str) -> Iterator[str]:
    """A temporary folder that holds the configuration; "" without one."""
    with TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_text(config, encoding="utf-8")
        yield folder if config else ""


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep open_clip from warning of random weights, which are asked for, and from logging what it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
