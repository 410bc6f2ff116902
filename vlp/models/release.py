"""A model folder: weights, tokenizer and model.toml, with a checksum of every file."""

from __future__ import annotations

import hashlib
import logging
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vlp.config import build, component_name, only_ours, to_tree
from vlp.errors import UserError
from vlp.files import sha256, write_whole
from vlp.legible import plain
from vlp.models import Model
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image_transform import ImageTransform
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.tokenizer import Tokenizer, load_tokenizer
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = Image | bytes | str | Path

log = logging.getLogger("vlp.models")
FORMAT = "vlp-model-1"
FILES = ("model.safetensors", "tokenizer.json")
MOST_TOKENS = 10_000_000  # of a vocabulary or a text; the largest in use have a few hundred thousand


@dataclass(frozen=True)
class Release:
    """A model that is ready to be used: encoder, tokenizer, picture preparation, and the id of its weights."""

    encoder: DualEncoder
    tokenizer: Tokenizer
    transform: ImageTransform
    id: str
    """sha256 of the weights file (hex), or of the weights themselves where there is no file"""
    name: str
    """the folder, or open_clip's name"""
    config: Model | None = field(default=None, kw_only=True)
    """what the model was built from; None for one that was put together by hand"""
    precision: Literal["fp32", "bf16"] = field(default="fp32", kw_only=True)
    """what the towers compute in: fp32, or bf16 where autocast allows it; vectors are normalised in float32"""

    def embed(self, what: str | Picture | Sequence[str | Picture]) -> Tensor:
        """Unit vectors [N, D], float32 on the CPU, of texts (str) and pictures (Path, bytes, or PIL's), in their order.

        A str is always a text: give a picture's path as a Path. Raises UserError for a picture that cannot be read.
        """
        some: list[str | Picture] = [what] if isinstance(what, str) else list(_several(what))
        texts = [one for one in some if isinstance(one, str)]
        pictures = [one for one in some if not isinstance(one, str)]
        of_texts, of_pictures = iter(self.embed_texts(texts)), iter(self.embed_images(pictures))
        made = [next(of_texts) if isinstance(one, str) else next(of_pictures) for one in some]
        return torch.stack(made) if made else self.embed_texts([])

    @torch.inference_mode()
    def embed_images(self, pictures: Picture | Sequence[Picture], batch: int = 256) -> Tensor:
        """Unit vectors [N, D], float32 on the CPU, of N pictures: PIL's, encoded bytes, or paths; one picture is N = 1.

        Raises UserError for a file that is missing or is no picture.
        """
        some = _several(pictures)
        if not some:
            return self.embed_pixels(torch.zeros(1, 3, self.transform.size, self.transform.size))[:0]
        parts = [some[i : i + batch] for i in range(0, len(some), batch)]
        return torch.cat(
            [self.embed_pixels(torch.stack([self.transform(_opened(p)) for p in part]), batch) for part in parts]
        )

    @torch.inference_mode()
    def embed_pixels(self, image: Tensor, batch: int = 256) -> Tensor:
        """Unit vectors [N, D], float32 on the CPU, of uint8 pictures [N, 3, H, W] that went through `transform`."""
        device = self.encoder.logit_scale.device
        with self._autocast():
            return torch.cat(
                [self.encoder.encode_image(part.to(device)).float().cpu() for part in torch.split(image, batch)]
            )

    @torch.inference_mode()
    def embed_texts(self, texts: str | Sequence[str], batch: int = 512) -> Tensor:
        """Unit vectors [N, D], float32 on the CPU, of N texts; one string is N = 1.

        Texts of like length go through the tower together, so that little of a batch is padding.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            return self.embed_texts([""])[:0]
        order = by_length(texts)
        parts = [[texts[i] for i in order[start : start + batch]] for start in range(0, len(texts), batch)]
        vectors = torch.cat([self._embed_together(part) for part in parts])
        return torch.empty_like(vectors).index_copy_(0, torch.tensor(order), vectors)

    def _embed_together(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n, D], float32 on the CPU, of texts that fit one batch."""
        tokens = self.tokenizer(texts)
        trimmed = getattr(self.encoder.text_tower, "trimmed", None)  # of vlp/models/packing.py, which imports open_clip
        if trimmed is not None:
            tokens = trimmed(tokens)
        with self._autocast():
            return self.encoder.encode_text(tokens.to(self.encoder.logit_scale.device)).float().cpu()

    def _autocast(self) -> torch.autocast:
        kind = self.encoder.logit_scale.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16")


def by_length(texts: Sequence[str]) -> list[int]:
    """The numbers of the texts, shortest first; by bytes, which tokens follow closely enough.

    >>> by_length(["a red apple", "pear", "苹果"])
    [1, 2, 0]
    """
    return sorted(range(len(texts)), key=lambda number: len(texts[number].encode("utf-8", "replace")))


def _several(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """The pictures; a path or bytes are one, though they have a length."""
    if isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes | bytearray):
        return list(pictures)
    return [pictures]


def _opened(picture: Picture) -> Image:
    """The picture itself, or what `decode` makes of its bytes or its file. Raises UserError."""
    if isinstance(picture, bytes):
        data, name = picture, "the picture"
    elif isinstance(picture, str | Path):
        name = str(picture)
        try:
            data = Path(picture).read_bytes()
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror}; give the path of a picture") from None
    else:
        return picture
    try:
        return decode(data, Limits())
    except Refused as error:
        raise UserError(f"{name} cannot be embedded: {error}; give a PNG, JPEG or WebP") from None


def save(folder: Path, *, config: Model, encoder: DualEncoder, tokenizer: Tokenizer, notes: dict[str, str]) -> str:
    """Write the model folder and give back the model's id. model.toml comes last: a folder without it is no model.

    The picture preparation is written out, so that a later version of open_clip does not change it. `notes` goes into
    model.toml as it is (seed, data, versions).
    """
    import tomli_w
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in encoder.released().items()}
    config = config.resolved()
    write_whole(folder / "model.safetensors", lambda path: save_file(state, path))
    write_whole(folder / "tokenizer.json", tokenizer.save)
    files = {name: sha256(folder / name) for name in FILES}
    tree = {
        "format": FORMAT,
        "sha256": files,
        "tokenizer": {"vocab": tokenizer.vocab, "context": tokenizer.context},
        "preprocessing": to_tree(config.transform()),
        "model": {"name": component_name(config, Model), **to_tree(config)},
        "notes": notes,
    }
    write_whole(folder / "model.toml", tomli_w.dumps(tree))
    return files["model.safetensors"]


def load(name: str | Path, device: str = "cpu", *, random_weights: bool = False, trust: bool = False) -> Release:
    """The model in a folder that `save` wrote, or open_clip's by name.

    Such names are ARCHITECTURE:PRETRAINED, hf-hub:OWNER/NAME and local-dir:FOLDER. ARCHITECTURE alone has random
    weights, the same ones each time: it is refused unless `random_weights`. `trust`: the folder may name components
    that are no part of vlp, whose code is then run. Raises UserError if the folder misses a file, if a file is not the
    one that was saved, or if the name is unknown.
    """
    folder = Path(name)
    if (folder / "model.toml").is_file():
        with only_ours(not trust):
            return _load_folder(folder, device)
    if folder.exists():
        raise UserError(
            f"{folder} is not a model folder: it has no model.toml (a finished training run writes RUN/model)"
        )
    config = OpenClip.named(str(name))
    if os.sep in config.architecture and not config.has_weights:
        raise UserError(f"there is no model folder {folder}; give a folder that training wrote, or an open_clip name")
    if not config.has_weights:
        _accept_random(config, random_weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = config.build(0)
    digest = hashlib.sha256()
    for key, tensor in sorted(encoder.state_dict().items()):
        digest.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    encoder = encoder.to(device).eval()
    return Release(encoder, config.tokenizer(()), config.transform(), digest.hexdigest(), str(name), config=config)


def configuration(name: str | Path, *, trust: bool = False) -> Model:
    """The configuration of a model that `load` opens. Raises UserError as `load` does."""
    folder = Path(name)
    if (folder / "model.toml").is_file():
        with only_ours(not trust):
            return build(Model, _about(folder / "model.toml")["model"], "model")
    return OpenClip.named(str(name)).resolved()


def _accept_random(config: OpenClip, wanted: bool) -> None:
    """Say that the weights are random. Raises UserError unless they are `wanted`."""
    if not wanted:
        tags = ", ".join(config.tags())
        has = f"name one of its weights as {config.architecture}:TAG ({tags})" if tags else "open_clip has none of its"
        raise UserError(
            f'"{config.architecture}" without weights is a model that has learned nothing: {has}, '
            "or ask for random weights by --random-weights (random_weights=True in Python)"
        )
    log.warning("%s has random weights: what it gives means nothing", config.architecture)


def _about(path: Path) -> dict[str, Any]:
    """What model.toml says. Raises UserError if it is not what `save` writes."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML: {plain(error)}; copy the folder again") from None
    if tree.get("format") != FORMAT:
        raise UserError(f"{path} has format {plain(tree.get('format'))!r}; this version reads {FORMAT!r}")
    wanted: dict[str, dict[str, type]] = {
        "sha256": dict.fromkeys(FILES, str),
        "tokenizer": {"vocab": int, "context": int},
        "model": {"name": str},
    }
    for name, keys in wanted.items():
        table = tree.get(name)
        wrong = [key for key, kind in keys.items() if not isinstance(table, dict) or type(table.get(key)) is not kind]
        if wrong:
            raise UserError(f'{path} lacks "{name}.{wrong[0]}"; copy the folder again')
    if not all(0 <= tree["tokenizer"][key] <= MOST_TOKENS for key in ("vocab", "context")):
        raise UserError(f"{path} has a tokenizer of a size that none has; copy the folder again")
    return tree


def _load_folder(folder: Path, device: str) -> Release:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tree = _about(folder / "model.toml")
    for file, digest in tree["sha256"].items():
        if not (folder / file).is_file():
            raise UserError(f"the model folder {folder} misses {file}; copy the folder again or train again")
        if sha256(folder / file) != digest:
            raise UserError(
                f"{folder / file} is not the file that was saved (its sha256 differs from the one in model.toml); "
                "copy the folder again"
            )
    config = build(Model, tree["model"], "model")
    saved = tree.get("preprocessing")  # older folders have none
    transform = build(ImageTransform, saved, "preprocessing") if saved else config.transform()
    vocab, context = tree["tokenizer"]["vocab"], tree["tokenizer"]["context"]
    encoder = config.build(vocab, weights=False)
    try:
        encoder.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{folder / 'model.safetensors'} does not hold the weights of the model in model.toml "
            f"({plain(error)}); copy the folder again"
        ) from None
    encoder.normalise_by(transform.mean, transform.std)
    tokenizer = load_tokenizer(folder / "tokenizer.json", context)
    encoder = encoder.to(device).eval()
    return Release(encoder, tokenizer, transform, tree["sha256"]["model.safetensors"], str(folder), config=config)
