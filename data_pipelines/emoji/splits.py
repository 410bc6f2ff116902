"""Which pair is trained on and which asks a question: whole groups of alike pairs, placed by a hash."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipelines.emoji.captions import caption_key
from data_pipelines.emoji.drawings import Drawing
from data_pipelines.picture_hash import ALIKE_BITS, ALIKE_COLOUR, Fingerprint

ASKS = {  # what a model must do to be right on a split, one sentence each; it stands in the split's manifest
    "train": "What a model may learn from.",
    "val": "Unseen concepts, seen artists: the split that choices are made on.",
    "test_concept": "Concepts that were never seen, by artists that were.",
    "test_style": "Concepts that were seen in training, drawn by artists that were not.",
    "test_style_concept": "Neither the concept nor the artist was seen in training.",
    "test_attr": "Unseen combinations of a person or gesture with a skin tone.",
}
SPLITS = tuple(ASKS)
HELD_OUT_FAMILY = "fluent"
VAL_SHARE, TEST_SHARE = 0.08, 0.12  # of the groups of concepts
ATTR_SHARE = 0.14  # of the (person, skin tone) combinations whose person is trained on


@dataclass(frozen=True)
class Picture:
    """A drawing and the fingerprint of its decoded pixels."""

    drawing: Drawing
    fingerprint: Fingerprint


def place(pictures: Sequence[Picture]) -> tuple[list[str], Counter[str]]:
    """The split of each picture ("" for those left out), and how many were left out for which reason."""
    alike = alike_pairs([picture.fingerprint for picture in pictures])
    groups = _groups([picture.drawing for picture in pictures], alike)
    places = [_split(picture.drawing, groups[row]) for row, picture in enumerate(pictures)]
    drops: Counter[str] = Counter()
    for row, split in enumerate(places):
        if split == "val" and pictures[row].drawing.family == HELD_OUT_FAMILY:
            places[row] = ""
            drops["held-out artist, validation concept"] += 1
        elif split in ("val", "test_concept") and pictures[row].drawing.tone:
            places[row] = ""
            drops["skin tone of an unseen person"] += 1
    for one, other in alike:
        for here, there in ((one, other), (other, one)):
            if places[here] == "train" and places[there] not in ("train", ""):
                places[there] = ""
                drops["near-identical to a training picture"] += 1
    return places, drops


def alike_pairs(prints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Every pair of rows whose pictures are near-identical: few differing hash bits and the same mean colour."""
    packed = np.array([np.frombuffer(p.bits.to_bytes(32, "big"), np.uint8) for p in prints], dtype=np.uint8)
    bits: npt.NDArray[np.float32] = np.unpackbits(packed.reshape(-1, 32), axis=1).astype(np.float32)
    colour = np.array([p.mean for p in prints], dtype=np.float32).reshape(-1, 3)
    ones = bits.sum(axis=1)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(prints), 1024):
        rows = slice(start, start + 1024)
        distance = ones[rows, None] + ones[None] - 2 * bits[rows] @ bits.T  # Hamming, [1024, N]
        left, right = np.nonzero(distance <= ALIKE_BITS)
        left = left + start
        near = (left < right) & (np.abs(colour[left] - colour[right]).max(axis=1, initial=0) <= ALIKE_COLOUR)
        pairs += zip(left[near].tolist(), right[near].tolist(), strict=True)
    return pairs


def _groups(drawings: Sequence[Drawing], alike: Iterable[tuple[int, int]]) -> list[str]:
    """The key of each drawing's group: same caption in any language, same person in another skin tone, or alike."""
    parent = list(range(len(drawings)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, drawing in enumerate(drawings):
        traits = [(language, caption_key(text)) for language, text in drawing.captions.items()]
        for trait in [*traits, ("base", drawing.base)] if drawing.base else traits:
            parent[root(row)] = root(first.setdefault(trait, row))
    for one, other in alike:
        parent[root(one)] = root(other)
    members = defaultdict(list)
    for row in range(len(drawings)):
        members[root(row)].append(row)
    # The smallest caption names the group, so that its place does not depend on the order of the pictures.
    names = {top: min(caption_key(drawings[row].captions["en"]) for row in rows) for top, rows in members.items()}
    return [names[root(row)] for row in range(len(drawings))]


def _split(drawing: Drawing, group: str) -> str:
    value = _unit(f"group {group}")
    held_out = drawing.family == HELD_OUT_FAMILY
    if value < VAL_SHARE:
        return "val"
    if value < VAL_SHARE + TEST_SHARE:
        return "test_style_concept" if held_out else "test_concept"
    if held_out:
        return "test_style"
    unseen = bool(drawing.tone) and _unit(f"tone {drawing.base} {drawing.tone}") < ATTR_SHARE
    return "test_attr" if unseen else "train"


def _unit(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
