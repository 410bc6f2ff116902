"""Models of other programs, in and out: one program a file, each compared with the program itself on real pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from vlp.errors import UserError
from vlp.legible import plain
from vlp.models.tokenizer import FastTokenizer, Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlp.models import Model
    from vlp.models.dual_encoder import DualEncoder
    from vlp.models.release import Release


@dataclass(frozen=True)
class Parts:
    """What a model folder is made of."""

    config: Model
    encoder: DualEncoder
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Foreign:
    """A model as the other program runs it."""

    pixels: Callable[[Tensor], Tensor]
    """features [B, D] of uint8 pictures [B, 3, S, S] that went through our preparation"""
    pictures: Callable[[Sequence[Image]], Tensor]
    """features [B, D] of pictures that the other program prepares itself"""
    tokens: Callable[[Sequence[str]], list[list[int]]]
    """token ids of each caption as the other program's tokenizer numbers them, without padding"""
    texts: Callable[[Sequence[str]], Tensor]
    """features [B, D] of captions"""


@dataclass(frozen=True)
class Parity:
    """The largest distances between two programs' unit vectors of the same pictures and captions."""

    images: float
    """of the same pixels"""
    texts: float
    """of the same captions"""
    prepared: float
    """of the same pictures, each prepared by the program itself"""

    def __str__(self) -> str:
        return (
            f"largest difference of an embedding: pictures {self.images:.1e}, captions {self.texts:.1e}; "
            f"with each program's own resizing {self.prepared:.1e}"
        )

    def check(self, tolerance: float) -> None:
        """Raise UserError if the parity is off."""
        for what, value in (
            ("pictures", self.images),
            ("captions", self.texts),
            ("pictures that each program prepares itself", self.prepared),
        ):
            if not value <= tolerance:
                raise UserError(
                    f"the parity is off: embeddings of {what} differ by up to {value:.1e} between vlp and the other "
                    f"program, and {tolerance:g} is allowed; nothing was written"
                )


class Exchange:
    """A program whose models come in and go out."""

    component_package: ClassVar[str] = "vlp.models.exchange"

    def recognises(self, source: Path) -> bool:
        """Whether `source` is a model of this program."""
        return False

    def read(self, source: Path, architecture: str) -> Parts:
        """The model in `source`; `architecture` where the source does not say it. Raises UserError."""
        raise UserError("models of this kind go out only")

    def write(self, release: Release, config: Model, folder: Path) -> None:
        """Write the model into the new `folder`. Raises UserError if the other program has no such model."""
        raise NotImplementedError

    def foreign(self, source: Path, architecture: str) -> Foreign:
        """The model in `source` as the other program runs it."""
        raise NotImplementedError


@torch.inference_mode()
def parity(release: Release, theirs: Foreign, pictures: Sequence[Image], captions: Sequence[str]) -> Parity:
    """How far two programs are apart on these pictures and captions.

    Raises UserError where their tokenizers differ, with the caption.
    """
    shift = release.tokenizer.shift if isinstance(release.tokenizer, FastTokenizer) else 0
    ours = [[token - shift for token in row] for row in release.tokenizer(captions).tolist()]
    others = theirs.tokens(captions)
    for caption, own, other in zip(captions, ours, others, strict=True):
        own, other = _unpadded(own), _unpadded(other)
        if own != other:
            raise UserError(
                f'the tokenizers differ: of "{plain(caption, 60)}" vlp makes {len(own)} tokens {own[:8]} and the other '
                f"program {len(other)} tokens {other[:8]}; nothing was written"
            )
    pixels = torch.stack([release.transform(picture) for picture in pictures])
    images = release.embed_pixels(pixels)
    texts = release.embed_texts(list(captions))
    return Parity(
        _apart(images, theirs.pixels(pixels)),
        _apart(texts, theirs.texts(captions)),
        _apart(images, theirs.pictures(pictures)),
    )


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest Euclidean distance between rows, as unit vectors."""
    theirs = torch.nn.functional.normalize(theirs.float(), dim=-1)
    return float((ours - theirs).norm(dim=-1).max())


def _unpadded(ids: list[int]) -> list[int]:
    """Token ids without padding: what is 0 or less at the end, and the repetitions of an end mark.

    >>> _unpadded([7, 5, 9, 0, 0]), _unpadded([7, 5, 9, 9, 9]), _unpadded([-1])
    ([7, 5, 9], [7, 5, 9], [])
    """
    while ids and (ids[-1] <= 0 or ids[-2:] == [ids[-1]] * 2):
        ids = ids[:-1]
    return ids


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 pictures as the floats that a tower takes, float32; mean and std of the pixels, of 1."""
    centre, spread = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (pixels.float() / 255 - centre) / spread
