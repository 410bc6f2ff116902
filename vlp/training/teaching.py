"""What a teacher says of each batch, beside a run: asked once a step, without a graph, kept with the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Embeddings
from vlp.errors import UserError

if TYPE_CHECKING:
    from vlp.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Setting:
    """What a teacher computes in: that of the run."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    """of weights and of what is said"""
    half: torch.dtype | None = None
    """what is multiplied in, under autocast; None: `dtype`"""
    rows: int = 0
    """pairs that are encoded at once; 0: all of a rank's"""
    width: int = 0
    """of the model's own embeddings; 0: not known"""


class Guide:
    """A teacher at work. It says of each pair two vectors, one for the picture and one for the caption.

    A subclass gives `begin` and `__call__`; what it learns on the way, it moves in `taken` and keeps in `state_dict`.
    """

    tokenizer: Tokenizer | None = None
    """what its captions are to be tokenized by (Batch.teacher_text); None: it reads Batch.text, or none"""
    width: int = 0
    """G of what it says, known after `begin`; 0: not known"""
    id: str = ""
    """which weights or vectors it speaks from, as a run that goes on must share them"""
    scale: float = 0.0
    """the logit scale that it was trained with; 0: that of the model in training"""
    compares = True
    """whether what it says of pictures can be compared with what it says of captions, of any pairs at any time"""

    @property
    def copies(self) -> tuple[nn.Module, ...]:
        """Copies of the model, to be laid out on the ranks as the model is."""
        return ()

    def memory(self, model: nn.Module, shards: int) -> int:
        """Bytes of what it will keep on each rank, where `shards` ranks share one copy of `model`."""
        return 0

    def begin(self, model: nn.Module, setting: Setting) -> None:
        """Get ready, before `model` is laid out on the ranks. Raises UserError for a model that it cannot teach."""
        raise NotImplementedError

    def __call__(self, batch: Batch, e: Embeddings) -> tuple[Tensor, Tensor]:
        """(pictures [b, G], captions [b, G]), or [b, V, G] of V views and [b, K, G] of K captions; without a graph."""
        raise NotImplementedError

    def taken(self) -> None:
        """The weights of the model have moved."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs of it."""
        return {}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class Teaching:
    """A teacher as a companion of its run."""

    guide: Guide
    name: str = "teacher"

    @staticmethod
    def begin(guide: Guide, model: nn.Module, setting: Setting, *, wanted: int = 0) -> Teaching:
        """A teacher that is ready. Raises UserError if it says vectors of another width than `wanted` (0: any)."""
        guide.begin(model, setting)
        if guide.width not in (0, wanted or guide.width):
            raise UserError(
                f"the teacher's vectors have width {guide.width}, but this objective wants {wanted}; take a teacher of "
                f"that width, or set loss.teacher_width (of features) or else model.width to {guide.width}"
            )
        return Teaching(guide)

    def beside(self, batch: Batch, e: Embeddings) -> Embeddings:
        """The embeddings with what the teacher says of the batch."""
        image, text = self.guide(batch, e)
        return replace(e, guide_image=image, guide_text=text)

    def taken(self) -> None:
        """Let the teacher follow the model."""
        self.guide.taken()

    def state_dict(self) -> dict[str, Tensor]:
        """What the teacher keeps."""
        return self.guide.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Let it go on from there."""
        self.guide.load_state_dict(tensors)


def size_of(model: nn.Module) -> int:
    """Bytes of the weights of a model."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


@torch.no_grad()
def encoded(model: nn.Module, image: Tensor, text: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """What `model`, in evaluation mode, makes of pictures [b, 3, H, W], or V views, and token ids [b, L], or [b, K, L].

    Chunk by chunk, in the run's precision; of sharded weights all ranks make the same calls.
    """
    rows = setting.rows or len(image)
    kind, half = setting.device.type, setting.half
    with torch.autocast(kind, half or torch.bfloat16, enabled=half is not None):
        texts = [model(None, part).text for part in torch.split(text, rows)]
        images = [model(part, None).image for part in torch.split(image, rows)]
    return torch.cat(images).to(setting.dtype), torch.cat(texts).to(setting.dtype)


@torch.no_grad()
def width_of(model: nn.Module, batch: Batch) -> int:
    """Width of the embeddings that `model` makes of the captions of a batch."""
    training = model.training
    made: Embeddings = model.eval()(None, batch.text)
    model.train(training)
    return int(made.text.shape[-1])
