"""A model folder: weights, tokenizer and model.toml, with a checksum of every file."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlp.config import build, component_name, to_tree
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.models import Model
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image_transform import ImageTransform
from vlp.models.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = "vlp-model-1"


@dataclass(frozen=True)
class Release:
    """A model that is ready to be used: encoder, tokenizer, picture preparation, and the id of its weights."""

    encoder: DualEncoder
    tokenizer: Tokenizer
    transform: ImageTransform
    id: str
    """sha256 of the weights file (hex), or of the weights themselves where there is no file"""
    name: str
    """what a person calls it: the folder, or open_clip's name"""

    @torch.inference_mode()
    def embed_images(self, pictures: Sequence[Image], batch: int = 256) -> Tensor:
        """Unit vectors [N, D], float32, of N pictures."""
        tensors = [self.transform(p) for p in pictures]
        return self.embed_pixels(torch.stack(tensors), batch) if tensors else torch.empty(0, 0)

    @torch.inference_mode()
    def embed_pixels(self, image: Tensor, batch: int = 256) -> Tensor:
        """Unit vectors [N, D], float32 on the CPU, of uint8 pictures [N, 3, H, W] that went through `transform`."""
        device = self.encoder.logit_scale.device
        return torch.cat(
            [self.encoder.encode_image(part.to(device)).float().cpu() for part in torch.split(image, batch)]
        )

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch: int = 512) -> Tensor:
        """Unit vectors [N, D], float32 on the CPU, of N texts."""
        device = self.encoder.logit_scale.device
        parts = [list(texts[i : i + batch]) for i in range(0, len(texts), batch)]
        return torch.cat([self.encoder.encode_text(self.tokenizer(p).to(device)).float().cpu() for p in parts])


def sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(folder: Path, *, config: Model, encoder: DualEncoder, tokenizer: Tokenizer, notes: dict[str, str]) -> str:
    """Write the model folder and give back the model's id. model.toml comes last: a folder without it is no model.

    `notes` goes into model.toml as it is (seed, data, versions).
    """
    import tomli_w
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    write_whole(folder / "model.safetensors", lambda path: save_file(state, path))
    write_whole(folder / "tokenizer.json", tokenizer.save)
    files = {name: sha256(folder / name) for name in ("model.safetensors", "tokenizer.json")}
    tree = {
        "format": FORMAT,
        "sha256": files,
        "tokenizer": {"vocab": tokenizer.vocab, "context": tokenizer.context},
        "model": {"name": component_name(config, Model), **to_tree(config)},
        "notes": notes,
    }
    write_whole(folder / "model.toml", tomli_w.dumps(tree))
    return files["model.safetensors"]


def load(name: str | Path, device: str = "cpu") -> Release:
    """The model in a folder that `save` wrote, or open_clip's `ARCHITECTURE` or `ARCHITECTURE:PRETRAINED`.

    Raises UserError if the folder misses a file, if a file is not the one that was saved, or if the name is unknown.
    """
    folder = Path(name)
    if (folder / "model.toml").is_file():
        return _load_folder(folder, device)
    if folder.exists():
        raise UserError(
            f"{folder} is not a model folder: it has no model.toml (a finished training run writes RUN/model)"
        )
    from vlp.models.kinds.open_clip import OpenClip

    architecture, _, pretrained = str(name).partition(":")
    if os.sep in architecture:
        raise UserError(f"there is no model folder {folder}; give a folder that training wrote, or an open_clip name")
    config = OpenClip(architecture, pretrained)
    encoder = config.build(0)
    digest = hashlib.sha256()
    for key, tensor in sorted(encoder.state_dict().items()):
        digest.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    encoder = encoder.to(device).eval()
    return Release(encoder, config.tokenizer(()), config.transform(), digest.hexdigest(), str(name))


def _load_folder(folder: Path, device: str) -> Release:
    from safetensors.torch import load_file

    try:
        tree = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{folder / 'model.toml'} is not valid TOML: {error}; copy the folder again") from None
    if tree.get("format") != FORMAT:
        raise UserError(f"{folder / 'model.toml'} has format {tree.get('format')!r}; this version reads {FORMAT!r}")
    for file, digest in tree["sha256"].items():
        if not (folder / file).is_file():
            raise UserError(f"the model folder {folder} misses {file}; copy the folder again or train again")
        if sha256(folder / file) != digest:
            raise UserError(
                f"{folder / file} is not the file that was saved (its sha256 differs from the one in model.toml); "
                "copy the folder again"
            )
    config = build(Model, tree["model"], "model")
    vocab, context = tree["tokenizer"]["vocab"], tree["tokenizer"]["context"]
    encoder = config.build(vocab, weights=False)
    encoder.load_state_dict(load_file(folder / "model.safetensors"))
    tokenizer = load_tokenizer(folder / "tokenizer.json", context)
    encoder = encoder.to(device).eval()
    return Release(encoder, tokenizer, config.transform(), tree["sha256"]["model.safetensors"], str(folder))
