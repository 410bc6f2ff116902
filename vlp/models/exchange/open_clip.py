"""open_clip: its training checkpoints (epoch_N.pt) in, its model folders (open_clip_config.json) in and out."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.config import component_name, did_you_mean
from vlp.errors import UserError
from vlp.legible import plain
from vlp.models import Model
from vlp.models.dual_encoder import DualEncoder
from vlp.models.exchange import Exchange, Foreign, Parts, normalised
from vlp.models.exchange._names import clip_to_open_clip
from vlp.models.hub import fetching
from vlp.models.kinds.open_clip import CONFIG, OpenClip
from vlp.models.kinds.transformers import Transformers
from vlp.models.release import Release
from vlp.models.tokenizer import OpenClipTokenizer

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
ENDINGS = (".pt", ".pth", ".bin", ".safetensors")
PARAMS = "params.txt"  # open_clip's training program writes it beside its checkpoints
MEANING = {  # the weights whose shapes say what an architecture cannot be wrong about
    "text_tower.positional_embedding": "context length",
    "text_tower.token_embedding.weight": "vocabulary",
    "image_tower.positional_embedding": "number of patches",
    "image_tower.trunk.pos_embed": "number of patches",
}


@dataclass(frozen=True)
class Described:
    """A model of open_clip that has not been built."""

    architecture: str
    """open_clip's name of it"""
    config: dict[str, Any]
    """model_cfg and preprocess_cfg"""
    weights: Path
    forced: dict[str, Any]
    """arguments by which open_clip builds the same"""


@dataclass(frozen=True)
class OpenClipExchange(Exchange):
    """open_clip's checkpoints and folders."""

    def recognises(self, source: Path) -> bool:
        """A folder with open_clip_config.json, or a checkpoint file."""
        return (source / CONFIG).is_file() or (source.suffix in ENDINGS and source.is_file())

    def read(self, source: Path, architecture: str) -> Parts:
        """The model. Raises UserError if weights and architecture do not fit, saying in what."""
        model = described(source, architecture)
        context = {CONFIG: json.dumps({"model_cfg": {"text_cfg": model.config["model_cfg"]["text_cfg"]}})}
        known = not source.is_dir() and model.config["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
        tokenizer = OpenClipTokenizer(model.architecture, None if source.is_dir() or known else context)
        config = OpenClip(model.architecture, config=json.dumps(model.config))
        encoder = config.build(tokenizer.vocab, weights=False)
        load(encoder, weights(model.weights), model)
        if tokenizer.vocab > (rows := _vocabulary(encoder)):
            raise UserError(
                f"the tokenizer has {tokenizer.vocab} tokens, but the weights in {source} have rows for {rows}"
            )
        return Parts(config, encoder.eval(), tokenizer)

    def write(self, release: Release, config: Model, folder: Path) -> None:
        """open_clip_config.json, open_clip_model.safetensors, and the tokenizer's files where open_clip has none."""
        from safetensors.torch import save_file

        state, model = open_clip_form(release, config)
        transform = release.transform
        preprocess = {
            "size": [transform.size] * 2,
            "mean": list(transform.mean),
            "std": list(transform.std),
            "interpolation": transform.interpolation,
            "resize_mode": transform.resize,
            "fill_color": transform.fill,
        }
        files = release.tokenizer.files if isinstance(release.tokenizer, OpenClipTokenizer) else {}
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        tree = {"model_cfg": model, "preprocess_cfg": preprocess}
        (folder / CONFIG).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in state.items()}, folder / WEIGHTS[0])

    def foreign(self, source: Path, architecture: str) -> Foreign:
        """The model as open_clip itself opens it."""
        import open_clip

        model = described(source, architecture)
        pretrained = None if source.is_dir() else str(source)
        length = model.config["model_cfg"]["text_cfg"].get("context_length")
        with fetching(f"{source}, by open_clip itself,", ""):
            theirs, _, prepare = open_clip.create_model_and_transforms(model.architecture, pretrained, **model.forced)
            tokenizer = open_clip.get_tokenizer(model.architecture, context_length=length)
        theirs.eval()
        mean, std = prepare.transforms[-1].mean, prepare.transforms[-1].std
        return Foreign(
            pixels=lambda pixels: theirs.encode_image(normalised(pixels, mean, std)),
            pictures=lambda some: theirs.encode_image(torch.stack([prepare(picture) for picture in some])),
            tokens=lambda captions: tokenizer(list(captions)).tolist(),
            texts=lambda captions: theirs.encode_text(tokenizer(list(captions))),
        )


def described(source: Path, architecture: str) -> Described:
    """What `source` is. Raises UserError if nothing says its architecture, or if two things say it differently."""
    import open_clip

    asked = open_clip.get_model_config(architecture) if architecture else None
    if architecture and asked is None:
        raise UserError(f'open_clip has no model "{architecture}"{did_you_mean(architecture, open_clip.list_models())}')
    if source.is_dir():
        tree = json.loads(OpenClip(f"local-dir:{source}").resolved().config)
        if asked is not None:
            _refuse_difference(f"{source / CONFIG}", tree["model_cfg"], f'"{architecture}"', asked)
        file = next((source / name for name in WEIGHTS if (source / name).is_file()), None)
        if file is None:
            raise UserError(f"{source} has none of {', '.join(WEIGHTS)}; copy the folder again")
        return Described(f"local-dir:{source}", tree, file, {})
    said = _params(source)
    name = architecture or str(said.get("model", ""))
    theirs = open_clip.get_model_config(name) if name else None
    if theirs is None:
        raise UserError(
            f"nothing says the architecture of {source}: there is no {PARAMS} beside it or above it; "
            "name it by --architecture, such as ViT-B-32"
        )
    forced = {key: said[key] for key in FORCED if said.get(key) not in (None, False)}
    config = {"model_cfg": _forced(theirs, forced), "preprocess_cfg": _preprocessing(said)}
    if asked is not None and said.get("model"):
        trained = open_clip.get_model_config(said["model"]) or {}
        _refuse_difference(f"{PARAMS} of the run", _forced(trained, forced), f'"{architecture}"', asked)
    return Described(name, config, source, forced)


FORCED = (
    "force_quick_gelu",
    "force_image_size",
    "force_context_length",
    "image_mean",
    "image_std",
    "image_interpolation",
    "image_resize_mode",
)


def _forced(model: Mapping[str, Any], forced: Mapping[str, Any]) -> dict[str, Any]:
    """An architecture with the changes that a run of open_clip made to it."""
    out = {**model, "vision_cfg": dict(model["vision_cfg"]), "text_cfg": dict(model["text_cfg"])}
    if forced.get("force_quick_gelu"):
        out["quick_gelu"] = True
    if size := forced.get("force_image_size"):
        out["vision_cfg"]["image_size"] = size[0] if isinstance(size, list | tuple) else size
    if length := forced.get("force_context_length"):
        out["text_cfg"]["context_length"] = length
    return out


def _preprocessing(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of open_clip changed of its preparation of pictures."""
    keys = {"mean": "image_mean", "std": "image_std", "interpolation": "image_interpolation"}
    keys["resize_mode"] = "image_resize_mode"
    return {key: said[name] for key, name in keys.items() if said.get(name)}


def _params(checkpoint: Path) -> dict[str, Any]:
    """What the training program's params.txt says, beside the checkpoint or one folder up; empty without one."""
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / PARAMS).is_file():
            lines = (folder / PARAMS).read_text(encoding="utf-8", errors="replace").splitlines()
            return {key: _value(text) for key, sep, text in (line.partition(": ") for line in lines) if sep}
    return {}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _refuse_difference(here: str, one: Mapping[str, Any], there: str, other: Mapping[str, Any]) -> None:
    """Raise UserError that names the first setting in which two architectures differ."""
    for name, keys, default in (
        ("QuickGELU", ("quick_gelu",), False),
        ("a picture size of", ("vision_cfg", "image_size"), 224),
        ("a patch of", ("vision_cfg", "patch_size"), 16),
        ("a context length of", ("text_cfg", "context_length"), 77),
        ("a vocabulary of", ("text_cfg", "vocab_size"), 49408),
        ("the tokenizer", ("text_cfg", "hf_tokenizer_name"), "open_clip's own BPE"),
        ("a shared width of", ("embed_dim",), None),
    ):
        values = [_at(tree, keys, default) for tree in (one, other)]
        if values[0] != values[1]:
            raise UserError(
                f"{here} has {name} {plain(values[0])}, and {there} has {plain(values[1])}; leave --architecture out, "
                "or name the one that was trained"
            )


def _at(tree: Any, keys: Sequence[str], default: Any) -> Any:
    for key in keys[:-1]:
        tree = tree.get(key, {})
    return tree.get(keys[-1], default)


def weights(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, without "module." and with the text tower apart; no code in it is run.

    Raises UserError if the file holds something else.
    """
    from open_clip.factory import load_state_dict
    from open_clip.model import convert_to_custom_text_state_dict
    from safetensors import SafetensorError

    try:
        state = load_state_dict(str(path), weights_only=True)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("not all of it is weights")
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError) as error:
        raise UserError(f"{path} holds no weights that can be read safely: {plain(error).splitlines()[0]}") from None
    except (StopIteration, AttributeError):
        raise UserError(f"{path} holds no weights") from None
    state = {key.removeprefix("_orig_mod."): value for key, value in state.items()}  # a compiled model's
    return dict(convert_to_custom_text_state_dict(state)) if "positional_embedding" in state else state


def load(encoder: DualEncoder, state: Mapping[str, Tensor], model: Described) -> None:
    """Load open_clip's weights. Raises UserError with what does not fit, in the words of an architecture."""
    ours = {_renamed(key): value for key, value in state.items()}
    ours.setdefault("logit_bias", torch.zeros(()))
    shapes = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    for key, value in ours.items():
        if key.startswith("logit_"):
            ours[key] = value.reshape(())
        elif key in shapes and tuple(value.shape) != shapes[key]:
            what = MEANING.get(key, "shape")
            raise UserError(
                f"{model.weights} has another {what} than {model.architecture}: {key} is {tuple(value.shape)}, "
                f"and {shapes[key]} was expected; name the architecture that was trained"
            )
    if strange := sorted(shapes.keys() ^ ours.keys()):
        side = "lacks" if strange[0] in shapes else "has"
        raise UserError(f'{model.weights} is no {model.architecture}: it {side} "{plain(strange[0])}"')
    encoder.load_state_dict(ours)


def _renamed(key: str) -> str:
    for theirs, own in (("visual.", "image_tower."), ("text.", "text_tower.")):
        if key.startswith(theirs):
            return own + key[len(theirs) :]
    return key


def _vocabulary(encoder: DualEncoder) -> int:
    """Rows of the text tower's token embedding."""
    return max(m.num_embeddings for m in encoder.text_tower.modules() if isinstance(m, torch.nn.Embedding))


def open_clip_form(release: Release, config: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and model_cfg as open_clip has them. Raises UserError for a model that it cannot build."""
    state = release.encoder.state_dict()
    if isinstance(config, OpenClip):
        model = config.described()
        if config.image_size:
            model["vision_cfg"] = {**model["vision_cfg"], "image_size": config.image_size}
        parts = {"image_tower.": "visual.", "text_tower.": "text."}
        out = {
            next((new + k[len(old) :] for old, new in parts.items() if k.startswith(old)), k): v
            for k, v in state.items()
        }
    elif isinstance(config, Transformers) and config.configuration().model_type == "clip":
        model = clip_config(config.configuration())
        out = clip_to_open_clip(transformers_state(state))
    else:
        raise UserError(
            f'{release.name} is a model "{component_name(config, Model)}", which open_clip cannot build; '
            "export it --to onnx, or train a model of open_clip (model.name = open_clip)"
        )
    if bool(out["logit_bias"] != 0) or "init_logit_bias" in model:
        model.setdefault("init_logit_bias", float(out["logit_bias"]))
    else:
        del out["logit_bias"]
    if not model.get("custom_text") and not model["text_cfg"].get("hf_model_name"):
        out = {key.removeprefix("text."): value for key, value in out.items()}
    return out, model


def transformers_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of our towers under the names of transformers' whole model."""
    names = {
        "image_tower.vision_model.": "vision_model.",
        "image_tower.projection.": "visual_projection.",
        "text_tower.text_model.": "text_model.",
        "text_tower.projection.": "text_projection.",
    }
    return {
        next((new + k[len(old) :] for old, new in names.items() if k.startswith(old)), k): v for k, v in state.items()
    }


def clip_config(configuration: Any) -> dict[str, Any]:
    """open_clip's model_cfg of a CLIPModel. Raises UserError where open_clip has no such model."""
    text, vision = configuration.text_config, configuration.vision_config
    if text.hidden_act != vision.hidden_act or text.hidden_act not in ("gelu", "quick_gelu"):
        raise UserError(
            f"the towers have the activations {vision.hidden_act} and {text.hidden_act}, but open_clip knows gelu and "
            "quick_gelu, and one for both; export it --to transformers or onnx"
        )

    def tower(part: Any) -> dict[str, Any]:
        return {
            "layers": part.num_hidden_layers,
            "width": part.hidden_size,
            "mlp_ratio": part.intermediate_size / part.hidden_size,
            "norm_kwargs": {"eps": part.layer_norm_eps},
        }

    image = {"image_size": vision.image_size, "patch_size": vision.patch_size}
    image["head_width"] = vision.hidden_size // vision.num_attention_heads
    words = {"context_length": text.max_position_embeddings, "vocab_size": text.vocab_size}
    words["heads"] = text.num_attention_heads
    return {
        "embed_dim": configuration.projection_dim,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": {**image, **tower(vision)},
        "text_cfg": {**words, **tower(text)},
    }
