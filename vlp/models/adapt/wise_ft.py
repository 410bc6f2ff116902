"""The weights between a model and what was finetuned from it (WiSE-FT, 2109.01903, equation 1)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vlp.errors import UserError
from vlp.models.dual_encoder import DualEncoder
from vlp.models.release import Release
from vlp.models.tokenizer import Tokenizer


@torch.no_grad()
def blend(first: Release, second: Release, alpha: float) -> DualEncoder:
    """The model (1 - alpha) · first + alpha · second, weight by weight; of whole numbers those of the second.

    Raises UserError for models that are not alike (`refuse_unlike`).
    """
    refuse_unlike(first, second)
    theirs = first.encoder.state_dict()
    mixed = {
        name: torch.lerp(theirs[name].to(tensor), tensor, alpha) if tensor.is_floating_point() else tensor
        for name, tensor in second.encoder.state_dict().items()
    }
    encoder = copy.deepcopy(second.encoder)
    encoder.load_state_dict(mixed)
    return encoder


def refuse_unlike(first: Release, second: Release) -> None:
    """Raise UserError where the weights between two models would mean nothing: other shapes, tokens or pictures."""
    one, other = (
        {name: tuple(tensor.shape) for name, tensor in release.encoder.state_dict().items()}
        for release in (first, second)
    )
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            raise UserError(
                f"{first.name} and {second.name} cannot be blended: the weight {name} is {_shape(one.get(name))} in "
                f"the first and {_shape(other.get(name))} in the second; blend a model with what was finetuned from it"
            )
    if first.transform != second.transform:
        raise UserError(
            f"{first.name} and {second.name} cannot be blended: they prepare pictures differently ({first.transform} "
            f"and {second.transform}); blend a model with what was finetuned from it"
        )
    if _words(first.tokenizer) != _words(second.tokenizer):
        raise UserError(
            f"{first.name} and {second.name} cannot be blended: their tokenizers differ, so that the same row of the "
            "embeddings is another token; finetune with the tokenizer of the first (training.init takes it)"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a number"


def _words(tokenizer: Tokenizer) -> tuple[int, Any]:
    """What makes two tokenizers the same: their context, and all that they keep."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(path)
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
    if "open_clip" in tree:  # names under which open_clip has it, which may be several
        return tokenizer.context, tokenizer.tokens()
    tree.get("tokenizer", tree).pop("truncation", None)  # that is the context
    return tokenizer.context, tree
