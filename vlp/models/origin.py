"""Where weights come from, and whether they are used as they were trained: with their activation and their pictures.

QuickGELU in place of GELU costs ViT-B-32:laion400m_e32 2.7 points of ImageNet, and nothing fails. open_clip's table of
weights says how each was trained; a checkpoint is known there by its file's name, by its checksum or by its repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vlp.files import sha256
from vlp.models.image_transform import ImageTransform

DIGITS = 8  # of the sha256, at the end of the names of open_clip's own checkpoints


def tags_of(weights: str) -> list[tuple[str, str]]:
    """(architecture, tag) of open_clip's table whose weights these are: a checkpoint file, or OWNER/NAME of the hub.

    A file is known by its checksum, or by a name that has it; weights from elsewhere have none.
    """
    import open_clip

    path, every = Path(weights), open_clip.list_pretrained()
    known = {pair: open_clip.get_pretrained_cfg(*pair) for pair in every}
    named = [pair for pair, about in known.items() if weights == about.get("hf_hub", "").rpartition("/")[0] != ""]
    if named or not path.is_file():
        return named
    sums = {pair: _checksum(about.get("url", "")) for pair, about in known.items()}
    end = path.stem.rpartition("-")[2]
    digest = end if len(end) == DIGITS and end in sums.values() else sha256(path)
    return [pair for pair, checksum in sums.items() if checksum and digest.startswith(checksum)]


def _checksum(url: str) -> str:
    """What open_clip checks a download against: the folder's name, or the end of the file's; "" where it has nothing.

    >>> _checksum("https://a/v0.2-weights/vit_b_32-quickgelu-laion400m_e32-46683a32.pt"), _checksum("https://a/b16.pt")
    ('46683a32', '')
    """
    folder, _, file = url.rpartition("/")
    for name in (folder.rpartition("/")[2], Path(file).stem.rpartition("-")[2]):
        if len(name) in (DIGITS, 64) and set(name) <= set("0123456789abcdef"):
            return name
    return ""


def other_activation(quick_gelu: bool, known: Mapping[str, Any]) -> str:
    """How weights were trained where a model is built otherwise, as the end of a sentence; "" where it fits."""
    trained = bool(known.get("quick_gelu"))
    if trained == quick_gelu:
        return ""
    names = ("GELU", "QuickGELU")
    return f"were trained with {names[trained]}, and the model has {names[quick_gelu]}"


def other_pictures(ours: ImageTransform, trained: ImageTransform) -> str:
    """The same of the preparation of pictures."""
    for field in fields(ImageTransform):
        one, other = getattr(trained, field.name), getattr(ours, field.name)
        if one != other and (field.name != "fill" or "longest" in (ours.resize, trained.resize)):
            return f"were trained on pictures with {field.name} = {one}, and the model prepares them with {other}"
    return ""


def with_activation(architecture: str, quick_gelu: bool) -> str:
    """open_clip's name of the architecture with or without QuickGELU; the same name where it has only one."""
    import open_clip

    plain = architecture.removesuffix("-quickgelu")
    name = f"{plain}-quickgelu" if quick_gelu else plain
    return name if name in open_clip.list_models() else architecture
